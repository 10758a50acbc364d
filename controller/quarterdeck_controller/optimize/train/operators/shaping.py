"""Operators that move elements and count them."""

from collections.abc import Mapping
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from quarterdeck_controller.optimize.train.operators.call import (
    Call,
    Operator,
    UnsupportedError,
)

END = 2**31 - 1
"""A slice that goes at least so far goes to the end."""


def shape(call: Call) -> Tensor:
    """Shape, or a part of it."""
    whole = torch.tensor(call.tensor(0).shape, dtype=torch.int64)
    return whole[call.given.get("start", 0) : call.given.get("end")]


def size(call: Call) -> Tensor:
    """Size."""
    return torch.tensor(call.tensor(0).numel(), dtype=torch.int64)


def reshape(call: Call) -> Tensor:
    """Reshape; a zero copies the input's dimension, unless ``allowzero``."""
    x, wanted = call.tensor(0), call.numbers(1, "shape") or []
    if not call.given.get("allowzero", 0):
        wanted = [x.shape[at] if n == 0 else n for at, n in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(call: Call) -> Tensor:
    """Flatten into a matrix."""
    x = call.tensor(0)
    axis = call.given.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), -1)


def transpose(call: Call) -> Tensor:
    """Transpose."""
    x = call.tensor(0)
    return x.permute(call.given.get("perm", list(range(x.dim()))[::-1]))


def squeeze(call: Call) -> Tensor:
    """Squeeze the given axes, or all of size one."""
    x, axes = call.tensor(0), call.numbers(1, "axes")
    if axes is None:
        return x.squeeze()
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.squeeze(axis)
    return x


def unsqueeze(call: Call) -> Tensor:
    """Unsqueeze; axes count in the result."""
    x, axes = call.tensor(0), call.numbers(1, "axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def concat(call: Call) -> Tensor:
    """Concat."""
    parts = [call.tensor(index) for index in range(len(call.inputs))]
    return torch.cat(parts, call.given.get("axis"))


def split(call: Call) -> tuple[Tensor, ...]:
    """Split by sizes, or into parts as equal as they go."""
    x, axis = call.tensor(0), call.given.get("axis", 0)
    sizes = call.numbers(1, "split")
    if sizes is None:
        part = -(-x.shape[axis] // call.given.get("num_outputs", call.outputs))
        return tuple(torch.split(x, part, axis))
    return tuple(torch.split(x, sizes, axis))


def slice_(call: Call) -> Tensor:
    """Slice, with steps of either sign."""
    x = call.tensor(0)
    starts, ends = call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    strides = call.numbers(4) or [1] * len(starts)
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        length = x.shape[axis]
        chosen = range(*slice(start, _past(end), stride).indices(length))
        if stride == 1:
            x = x.narrow(axis, min(chosen.start, length), len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return x


def _past(end: int) -> int | None:
    return None if abs(end) >= END else end


def gather(call: Call) -> Tensor:
    """Gather; a negative index counts from the end."""
    x, at = call.tensor(0), call.tensor(1).long()
    axis = call.given.get("axis", 0) % x.dim()
    at = torch.where(at < 0, at + x.shape[axis], at)
    taken = torch.index_select(x, axis, at.reshape(-1))
    return taken.reshape((*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))


def gather_elements(call: Call) -> Tensor:
    """GatherElements."""
    x, at, axis = call.tensor(0), call.tensor(1).long(), call.given.get("axis", 0)
    return torch.gather(x, axis, torch.where(at < 0, at + x.shape[axis], at))


def gather_nd(call: Call) -> Tensor:
    """GatherND without batch dimensions."""
    if call.given.get("batch_dims", 0):
        raise UnsupportedError("it has batch_dims")
    x, at = call.tensor(0), call.tensor(1).long()
    return x[tuple(at[..., axis] for axis in range(at.shape[-1]))]


def scatter_nd(call: Call) -> Tensor:
    """ScatterND that replaces."""
    if call.given.get("reduction", "none") != "none":
        raise UnsupportedError(f"its reduction is {call.given.get('reduction')}")
    x, at = call.tensor(0), call.tensor(1).long()
    place = tuple(at[..., axis] for axis in range(at.shape[-1]))
    return x.index_put(place, call.tensor(2))


def scatter_elements(call: Call) -> Tensor:
    """ScatterElements that replaces."""
    if call.given.get("reduction", "none") != "none":
        raise UnsupportedError(f"its reduction is {call.given.get('reduction')}")
    x, at, axis = call.tensor(0), call.tensor(1).long(), call.given.get("axis", 0)
    at = torch.where(at < 0, at + x.shape[axis], at)
    return x.scatter(axis, at, call.tensor(2))


def expand(call: Call) -> Tensor:
    """Expand: both sides broadcast."""
    x, wanted = call.tensor(0), call.numbers(1) or []
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(wanted)))


def tile(call: Call) -> Tensor:
    """Tile."""
    return call.tensor(0).repeat(call.numbers(1) or [])


def pad(call: Call) -> Tensor:
    """Pad by a constant, the edge or a reflection; negative pads cut."""
    x, mode = call.tensor(0), call.given.get("mode", "constant")
    pads = call.numbers(1, "pads") or []
    axes = [axis % x.dim() for axis in call.numbers(3) or range(x.dim())]
    value = call.optional(2)
    fill = call.given.get("value", 0.0) if value is None else value.item()
    for number, axis in enumerate(axes):
        before, after = pads[number], pads[number + len(axes)]
        if (before, after) != (0, 0):
            x = _pad_one(x, axis, (before, after), mode, fill)
    return x


def _pad_one(
    x: Tensor, axis: int, pads: tuple[int, int], mode: str, fill: float
) -> Tensor:
    if mode == "constant":
        return functional.pad(x, [0, 0] * (x.dim() - 1 - axis) + list(pads), value=fill)
    length = x.shape[axis]
    at = torch.arange(-pads[0], length + pads[1])
    if mode == "edge":
        at = at.clamp(0, length - 1)
    elif mode == "reflect":
        at = (length - 1) - (at.abs() - (length - 1)).abs()
    elif mode == "wrap":
        at = at % length
    else:
        raise UnsupportedError(f"its mode is {mode}")
    return x.index_select(axis, at)


def constant_of_shape(call: Call) -> Tensor:
    """ConstantOfShape."""
    value = call.given.get("value")
    value = torch.zeros(1) if value is None else value.reshape(-1)
    return value.expand(prod(call.numbers(0) or [1])).reshape(call.numbers(0) or [])


def range_(call: Call) -> Tensor:
    """Range."""
    start, end, step = (call.tensor(index) for index in range(3))
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def one_hot(call: Call) -> Tensor:
    """OneHot."""
    at, depth, values = call.tensor(0).long(), int(call.tensor(1)), call.tensor(2)
    hot = functional.one_hot(torch.where(at < 0, at + depth, at), depth)
    hot = torch.where(hot.bool(), values[1], values[0])
    axis = call.given.get("axis", -1)
    return hot.movedim(-1, axis if axis >= 0 else axis + hot.dim())


def depth_to_space(call: Call) -> Tensor:
    """DepthToSpace in either order."""
    x, block = call.tensor(0), int(call.given["blocksize"])
    n, c, h, w = x.shape
    if call.given.get("mode", "DCR") == "DCR":
        x = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(call: Call) -> Tensor:
    """SpaceToDepth."""
    x, block = call.tensor(0), int(call.given["blocksize"])
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * block**2, h // block, w // block)


def triangle(call: Call) -> Tensor:
    """Trilu."""
    cut = torch.triu if call.given.get("upper", 1) else torch.tril
    return cut(call.tensor(0), call.whole(1) or 0)


def non_zero(call: Call) -> Tensor:
    """NonZero."""
    return torch.nonzero(call.tensor(0)).t().contiguous()


SHAPING: Mapping[str, Operator] = MappingProxyType(
    {
        "Concat": concat,
        "ConstantOfShape": constant_of_shape,
        "DepthToSpace": depth_to_space,
        "Expand": expand,
        "Flatten": flatten,
        "Gather": gather,
        "GatherElements": gather_elements,
        "GatherND": gather_nd,
        "NonZero": non_zero,
        "OneHot": one_hot,
        "Pad": pad,
        "Range": range_,
        "Reshape": reshape,
        "ScatterElements": scatter_elements,
        "ScatterND": scatter_nd,
        "Shape": shape,
        "Size": size,
        "Slice": slice_,
        "SpaceToDepth": space_to_depth,
        "Split": split,
        "Squeeze": squeeze,
        "Tile": tile,
        "Transpose": transpose,
        "Trilu": triangle,
        "Unsqueeze": unsqueeze,
    }
)
