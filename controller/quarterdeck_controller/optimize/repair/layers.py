"""The products of a quantized graph whose integers can be changed, and their inputs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, numpy_helper

from quarterdeck_controller.optimize.repair.graph import (
    Array,
    View,
    integer,
    integers,
    operand,
    text,
)

LARGEST_BIAS = (1 << 31) - 1
FAR = 2.0
"""Levels between a float weight and its integer past which it was made in another way
than by rounding."""

MATRIX = 2
"""Dimensions that weights of a product have at least."""


@dataclass(frozen=True, slots=True)
class Integers:
    """An initializer of integers that a DequantizeLinear reads.

    Attributes:
        scale: Of a level, for all or by channel along ``axis``.
    """

    tensor: TensorProto
    scale: Array
    zero: Array
    axis: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A product with integer weights, and the float operator it was made from.

    Attributes:
        made: The tensor it gives out, in the quantized graph.
        wanted: The tensor that the float operator gives out.
        bias: What is added to every output channel: integers, or a float constant.
    """

    node: onnx.NodeProto
    weights: Integers
    values: Array
    made: str
    wanted: str
    bias: Integers | TensorProto | None

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.node.name

    @property
    def axis(self) -> int:
        """The axis of the output channels."""
        return 1 if self.node.op_type == "Conv" else -1

    @property
    def groups(self) -> int:
        """Groups of channels that do not mix."""
        return integer(self.node, "group", 1)

    @property
    def width(self) -> int:
        """How many inputs each output is made of."""
        return int(self.rows(self.values).shape[2])

    def rows(self, array: Array) -> Array:
        """Return weights, or what broadcasts with them, by group, output and input."""
        if self.node.op_type == "Conv":
            return array.reshape(self.groups, array.shape[0] // self.groups, -1)
        return array[None] if self._outputs_first else array.T[None]

    @property
    def _outputs_first(self) -> bool:
        return self.node.op_type == "Gemm" and bool(integer(self.node, "transB", 0))

    def scales(self) -> Array:
        """Return the scale of a level by group and output."""
        if self.weights.scale.ndim == 0 or self.weights.scale.size == 1:
            return np.full((1, 1, 1), float(self.weights.scale.ravel()[0]))
        return self.weights.scale.astype(np.float64).reshape(self.groups, -1, 1)

    def levels(self) -> Array:
        """Return the integers, less their zero."""
        held = numpy_helper.to_array(self.weights.tensor).astype(np.int32)
        return held - int(self.weights.zero.ravel()[0])

    def write_levels(self, rows: Array) -> None:
        """Store levels that ``rows`` has by group, output and input."""
        tensor, zero = self.weights.tensor, self.weights.zero
        if self.node.op_type == "Conv":
            back = rows.reshape(tuple(tensor.dims))
        else:
            back = rows[0] if self._outputs_first else rows[0].T
        stored = np.ascontiguousarray(back + int(zero.ravel()[0])).astype(zero.dtype)
        tensor.CopyFrom(numpy_helper.from_array(stored, tensor.name))

    def add_bias(self, shift: Array) -> bool:
        """Add to the bias of every output channel; return whether that changed it."""
        if self.bias is None:
            return False
        tensor = self.bias if isinstance(self.bias, TensorProto) else self.bias.tensor
        held = numpy_helper.to_array(tensor)
        if isinstance(self.bias, TensorProto):
            fresh = (held + shift.reshape(held.shape)).astype(np.float32)
        else:
            levels = np.rint(shift / self.bias.scale.astype(np.float64)).ravel()
            both = held.astype(np.int64) + levels.astype(np.int64)
            fresh = np.clip(both, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)
        tensor.CopyFrom(numpy_helper.from_array(fresh, tensor.name))
        return not np.array_equal(held, fresh)

    def inputs(self, array: Array, most: int) -> Array:
        """Return vectors that the weights multiply, ``(groups, n, inputs)``.

        Args:
            array: What flows in, samples first.
            most: How many vectors at most, evenly spaced.
        """
        if self.node.op_type != "Conv":
            flat = array.reshape(-1, array.shape[-1])
            return flat[:: max(1, -(-len(flat) // most))][None]
        return _patches(array, self.node, self.values.shape, most)


def find_layers(
    reference: onnx.ModelProto, quantized: onnx.ModelProto
) -> Iterator[Layer]:
    """Yield the layers of ``quantized`` in order; the rest is not for tuning.

    Layers hold tensors of ``quantized``: what is written to them is written there.
    """
    view, before = View.of(quantized.graph), View.of(reference.graph)
    floats = {node.name: node for node in reference.graph.node}
    makers = {name: node for node in quantized.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in quantized.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in quantized.graph.node:
        old = floats.get(node.name)
        if old is None or old.op_type != node.op_type or not _is_product(node):
            continue
        weights = _integers(view, makers.get(node.input[1]))
        values = before.weights(operand(old, 1))
        if weights is None or values is None or values.ndim < MATRIX:
            continue
        factor = next((a.f for a in old.attribute if a.name == "alpha"), 1.0)
        after = readers.get(node.output[0], [])
        bias = _bias(view, makers, node, after)
        layer = Layer(
            node, weights, values * factor, node.output[0], old.output[0], bias
        )
        if _agrees(layer):
            yield layer


def _is_product(node: onnx.NodeProto) -> bool:
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    return text(node, "auto_pad", "NOTSET") == "NOTSET"


def _integers(view: View, maker: onnx.NodeProto | None) -> Integers | None:
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    tensor, scale = view.constants.get(maker.input[0]), view.constant(maker.input[1])
    if tensor is None or scale is None or view.uses[maker.input[0]] != 1:
        return None
    held = view.constant(operand(maker, 2))
    zero = np.zeros(1, numpy_helper.to_array(tensor).dtype) if held is None else held
    if zero.dtype.itemsize == 1 and np.ptp(zero.astype(np.int32)):
        return None
    return Integers(tensor, scale, zero, integer(maker, "axis", 1))


def _bias(
    view: View,
    makers: dict[str, onnx.NodeProto],
    node: onnx.NodeProto,
    after: list[onnx.NodeProto],
) -> Integers | TensorProto | None:
    name = operand(node, 2)
    if name:
        found = _integers(view, makers.get(name))
        return found or _float_bias(view, name)
    if node.op_type == "MatMul" and len(after) == 1 and after[0].op_type == "Add":
        others = [one for one in after[0].input if one != node.output[0]]
        return _float_bias(view, others[0]) if others else None
    return None


def _float_bias(view: View, name: str) -> TensorProto | None:
    held = view.weights(name)
    alone = view.uses[name] == 1 and name not in view.fixed
    if held is None or not alone or held.size != max(held.shape, default=0):
        return None
    return view.constants[name] if held.size > 1 else None


def _agrees(layer: Layer) -> bool:
    """Whether the integers are the float weights rounded, as far as levels tell."""
    if tuple(layer.weights.tensor.dims) != layer.values.shape:
        return False
    ideal = layer.rows(layer.values.astype(np.float64)) / layer.scales()
    return bool(np.abs(ideal - layer.rows(layer.levels())).max(initial=0) < FAR)


def _patches(
    array: Array, node: onnx.NodeProto, shape: tuple[int, ...], most: int
) -> Array:
    """Return what a kernel sees at evenly spaced places, by group."""
    dims = len(shape) - 2
    ones = (1,) * dims
    strides = integers(node, "strides") or ones
    dilations = integers(node, "dilations") or ones
    pads = integers(node, "pads") or (0,) * (2 * dims)
    groups = integer(node, "group", 1)
    around = [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(shape[2:], dilations, strict=True)]
    windows = sliding_window_view(
        np.pad(array, around), reach, axis=tuple(range(2, 2 + dims))
    )
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
    taps = tuple(slice(None, None, d) for d in dilations)
    placed = np.moveaxis(windows[(*steps, *taps)], 1, 1 + dims)
    places = int(np.prod(placed.shape[: 1 + dims]))
    chosen = np.arange(0, places, max(1, -(-places // most)))
    found = placed[np.unravel_index(chosen, placed.shape[: 1 + dims])]
    by_group = found.reshape(len(chosen), groups, -1)
    return np.moveaxis(by_group, 1, 0)
