"""Operators that multiply by weights, pool and normalize."""

from collections.abc import Callable, Mapping
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

Window = tuple[list[int], list[int], list[int]]
"""Size, stride and dilation of a window."""

MAX_DIMENSIONS = 3
CONVOLVE = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)
MAX_POOL = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
AVERAGE_POOL = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def _dimensions(count: int) -> int:
    if not 1 <= count <= MAX_DIMENSIONS:
        raise UnsupportedError(f"its window has {count} dimensions")
    return count - 1


def _window(call: Call, size: list[int]) -> Window:
    ones = [1] * len(size)
    given = call.given
    return size, list(given.get("strides", ones)), list(given.get("dilations", ones))


def _pads(call: Call, x: Tensor, window: Window) -> tuple[list[int], list[int]]:
    """Return what is added before and after each dimension."""
    size, strides, dilations = window
    count, how = len(size), call.given.get("auto_pad", "NOTSET")
    if how in ("NOTSET", ""):
        pads = list(call.given.get("pads", [0] * 2 * count))
        return pads[:count], pads[count:]
    if how == "VALID":
        return [0] * count, [0] * count
    before, after = [], []
    for at in range(count):
        length = x.shape[2 + at]
        spread = (size[at] - 1) * dilations[at] + 1
        total = (-(-length // strides[at]) - 1) * strides[at] + spread - length
        total = max(0, total)
        less, more = total // 2, total - total // 2
        before.append(less if how == "SAME_UPPER" else more)
        after.append(more if how == "SAME_UPPER" else less)
    return before, after


def _padded(x: Tensor, before: list[int], after: list[int], value: float) -> Tensor:
    pairs = list(zip(before, after, strict=True))[::-1]
    return functional.pad(x, [n for pair in pairs for n in pair], value=value)


def convolve(call: Call) -> Tensor:
    """Conv in one to three dimensions."""
    x, weight = call.tensor(0), call.tensor(1)
    window = _window(call, list(weight.shape[2:]))
    before, after = _pads(call, x, window)
    if before != after:
        x, before = _padded(x, before, after, 0), [0] * len(before)
    compute = CONVOLVE[_dimensions(len(before))]
    group = call.given.get("group", 1)
    return compute(x, weight, call.optional(2), window[1], before, window[2], group)


def convolve_transposed(call: Call) -> Tensor:
    """ConvTranspose with explicit pads; uneven ones are cut from the result."""
    if call.given.get("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
        raise UnsupportedError(f"its auto_pad is {call.given.get('auto_pad')}")
    if call.given.get("output_shape"):
        raise UnsupportedError("it has output_shape")
    x, weight = call.tensor(0), call.tensor(1)
    window = _window(call, list(weight.shape[2:]))
    before, after = _pads(call, x, window)
    count = len(before)
    extra = list(call.given.get("output_padding", [0] * count))
    compute = TRANSPOSED[_dimensions(count)]
    full = compute(
        x,
        weight,
        call.optional(2),
        window[1],
        0,
        0,
        call.given.get("group", 1),
        window[2],
    )
    full = _padded(full, [0] * count, extra, 0) if any(extra) else full
    bias = call.optional(2)
    if any(extra) and bias is not None:
        raise UnsupportedError("it has output_padding and a bias")
    for at in range(count):
        length = full.shape[2 + at] - before[at] - after[at]
        full = full.narrow(2 + at, before[at], length)
    return full


def multiply_matrices(call: Call) -> Tensor:
    """MatMul."""
    return torch.matmul(call.tensor(0), call.tensor(1))


def fused_matmul(call: Call) -> Tensor:
    """The runtime's FusedMatMul."""
    left, right = call.tensor(0), call.tensor(1)
    left = left.transpose(-1, -2) if call.given.get("transA", 0) else left
    right = right.transpose(-1, -2) if call.given.get("transB", 0) else right
    return call.given.get("alpha", 1.0) * torch.matmul(left, right)


def gemm(call: Call) -> Tensor:
    """Gemm."""
    left, right, added = call.tensor(0), call.tensor(1), call.optional(2)
    left = left.t() if call.given.get("transA", 0) else left
    right = right.t() if call.given.get("transB", 0) else right
    product = torch.matmul(left, right)
    alpha, beta = call.given.get("alpha", 1.0), call.given.get("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    if added is None:
        return product
    return product + (added if beta == 1 else beta * added)


def einsum(call: Call) -> Tensor:
    """Einsum."""
    parts = [call.tensor(index) for index in range(len(call.inputs))]
    return torch.einsum(call.given.get("equation"), *parts)


def max_pool(call: Call) -> Tensor:
    """MaxPool; its second output, where the greatest was, is not known here."""
    if call.outputs > 1:
        raise UnsupportedError("it gives indices")
    x = call.tensor(0)
    window = _window(call, list(call.given["kernel_shape"]))
    before, after = _pads(call, x, window)
    least = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    if any(before) or any(after):
        x = _padded(x, before, after, least)
    compute = MAX_POOL[_dimensions(len(before))]
    ceil = bool(call.given.get("ceil_mode", 0))
    return compute(x, window[0], window[1], 0, window[2], ceil_mode=ceil)


def average_pool(call: Call) -> Tensor:
    """AveragePool; padding counts only where the node says so."""
    x = call.tensor(0)
    size, strides, dilations = _window(call, list(call.given["kernel_shape"]))
    if any(dilation != 1 for dilation in dilations):
        raise UnsupportedError("it is dilated")
    before, after = _pads(call, x, (size, strides, dilations))
    compute = AVERAGE_POOL[_dimensions(len(size))]
    ceil = bool(call.given.get("ceil_mode", 0))
    counts = bool(call.given.get("count_include_pad", 0))
    if before == after:
        return compute(x, size, strides, before, ceil, counts)
    if ceil:
        raise UnsupportedError("it rounds up and its padding is uneven")
    pooled = compute(_padded(x, before, after, 0), size, strides)
    if counts:
        return pooled
    ones = _padded(torch.ones_like(x[:1, :1]), before, after, 0)
    return pooled / compute(ones, size, strides)


def _over_space(fold: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Operator:
    return lambda call: fold(call.tensor(0), tuple(range(2, call.tensor(0).dim())))


def batch_norm(call: Call) -> Tensor:
    """BatchNormalization as it is at inference."""
    x, scale, bias, mean, variance = (call.tensor(index) for index in range(5))
    epsilon = call.given.get("epsilon", 1e-5)
    return functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def instance_norm(call: Call) -> Tensor:
    """InstanceNormalization."""
    x, scale, bias = (call.tensor(index) for index in range(3))
    epsilon = call.given.get("epsilon", 1e-5)
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def layer_norm(call: Call) -> Tensor:
    """LayerNormalization from an axis on."""
    if call.outputs > 1:
        raise UnsupportedError("it gives mean and variance")
    return _layer_norm(call.tensor(0), call.tensor(1), call.optional(2), call)


def skip_layer_norm(call: Call) -> Tensor:
    """The runtime's SkipLayerNormalization: the sum of two inputs is normalized."""
    if call.outputs > 1:
        raise UnsupportedError("it gives the sum too")
    x, bias = call.tensor(0) + call.tensor(1), call.optional(4)
    x = x if bias is None else x + bias
    return _layer_norm(x, call.tensor(2), call.optional(3), call)


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, call: Call) -> Tensor:
    axis = call.given.get("axis", -1) % x.dim()
    epsilon = call.given.get("epsilon", 1e-5)
    inner = x.shape[axis:]
    if scale.shape == inner and (bias is None or bias.shape == inner):
        return functional.layer_norm(x, inner, scale, bias, epsilon)
    normal = functional.layer_norm(x, inner, eps=epsilon) * scale
    return normal if bias is None else normal + bias


def simplified_layer_norm(call: Call) -> Tensor:
    """RMSNormalization, which the runtime also calls SimplifiedLayerNormalization."""
    x = call.tensor(0)
    axes = tuple(range(call.given.get("axis", -1) % x.dim(), x.dim()))
    size = x.square().mean(axes, keepdim=True) + call.given.get("epsilon", 1e-5)
    return x * torch.rsqrt(size) * call.tensor(1)


def group_norm(call: Call) -> Tensor:
    """GroupNormalization; before version 21 it has a scale for each group."""
    x, groups = call.tensor(0), call.given["num_groups"]
    scale, bias = call.tensor(1), call.tensor(2)
    if scale.numel() == groups != x.shape[1]:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return functional.group_norm(
        x, groups, scale, bias, call.given.get("epsilon", 1e-5)
    )


def local_response(call: Call) -> Tensor:
    """LRN."""
    given = call.given
    size, alpha, beta = given["size"], given.get("alpha", 1e-4), given.get("beta", 0.75)
    x = call.tensor(0)
    flat = x.reshape(x.shape[0], 1, x.shape[1], prod(x.shape[2:])).square()
    before = (size - 1) // 2
    flat = functional.pad(flat, [0, 0, before, size - 1 - before])
    mean = functional.avg_pool2d(flat, (size, 1), 1).reshape(x.shape)
    return x / (given.get("bias", 1.0) + alpha * mean) ** beta


def lp_norm(call: Call) -> Tensor:
    """LpNormalization."""
    axis, order = call.given.get("axis", -1), call.given.get("p", 2)
    x = call.tensor(0)
    return x / x.norm(order, axis, keepdim=True).clamp_min(1e-12)


def softmax(call: Call) -> Tensor:
    """Softmax."""
    return functional.softmax(call.tensor(0), call.given.get("axis", -1))


def log_softmax(call: Call) -> Tensor:
    """LogSoftmax."""
    return functional.log_softmax(call.tensor(0), call.given.get("axis", -1))


LAYERS: Mapping[str, Operator] = MappingProxyType(
    {
        "AveragePool": average_pool,
        "BatchNormalization": batch_norm,
        "Conv": convolve,
        "ConvTranspose": convolve_transposed,
        "Einsum": einsum,
        "FusedMatMul": fused_matmul,
        "Gemm": gemm,
        "GlobalAveragePool": _over_space(lambda x, axes: x.mean(axes, keepdim=True)),
        "GlobalMaxPool": _over_space(lambda x, axes: x.amax(axes, keepdim=True)),
        "GroupNormalization": group_norm,
        "InstanceNormalization": instance_norm,
        "LRN": local_response,
        "LayerNormalization": layer_norm,
        "LogSoftmax": log_softmax,
        "LpNormalization": lp_norm,
        "MatMul": multiply_matrices,
        "MaxPool": max_pool,
        "RMSNormalization": simplified_layer_norm,
        "SimplifiedLayerNormalization": simplified_layer_norm,
        "SkipLayerNormalization": skip_layer_norm,
        "Softmax": softmax,
    }
)
