"""What of a quantized graph can be trained, and where each part is stored. Pure.

A *weight* is a constant of integers that becomes float by DequantizeLinear or by Cast
and Mul; it is trained as a float that is fake-quantized. A *bias* is one of 32 bits,
whose scale follows from the scales of what is multiplied. A *plain* one is a float
constant where an operator has its weights. Every scale of a QuantizeLinear is learned,
and zero points never change: kernels were chosen for them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Array = NDArray[Any]

RANGES: Mapping[int, tuple[int, int]] = MappingProxyType(
    {
        TensorProto.UINT8: (0, 255),
        TensorProto.INT8: (-128, 127),
        TensorProto.UINT16: (0, 65535),
        TensorProto.INT16: (-32768, 32767),
    }
)
SEVEN_BITS = 64
"""Signed weights that stay within this were built for kernels that saturate."""

PLACES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "BatchNormalization": (1, 2),
        "Conv": (1, 2),
        "ConvTranspose": (1, 2),
        "GRU": (1, 2, 3),
        "Gemm": (1, 2),
        "GroupNormalization": (1, 2),
        "InstanceNormalization": (1, 2),
        "LSTM": (1, 2, 3),
        "LayerNormalization": (1, 2),
        "MatMul": (1,),
        "PRelu": (1,),
        "RNN": (1, 2, 3),
    }
)
"""Which inputs of an operator are its weights."""

ZERO = 2
"""Where QuantizeLinear and its inverse have their zero point."""
ROUNDING = 1 + 1e-5
"""What was computed in 32 bits may be so much larger than it is."""
BLOCKS = -1000
"""Stands for the axis of scales that are finer than one for each channel."""
LOOKUPS = ("Gather", "GatherElements", "GatherND")


@dataclass(frozen=True, slots=True)
class Weight:
    """Integers that stand for a weight.

    Attributes:
        integers: Name of the constant.
        values: Names of the float tensors that the graph makes of it.
        scale: Name of the constant that holds its scales.
        zero: The zero point, one number or one for each channel.
        axis: Of the channels in the integers; None when there is one scale.
        low: Least integer that may be written.
        high: Greatest integer that may be written.
    """

    integers: str
    values: tuple[str, ...]
    scale: str
    zero: Array
    axis: int | None
    low: int
    high: int

    def spread(self, numbers: Array, rank: int) -> Array:
        """Return one number for each channel so that it broadcasts to the weight.

        Args:
            numbers: Scales or zero points, one for each channel or one for all.
            rank: How many dimensions the weight has.
        """
        if self.axis is None or numbers.size == 1:
            return numbers.reshape(-1)[:1]
        shape = [1] * rank
        shape[self.axis] = -1
        return numbers.reshape(shape)


@dataclass(frozen=True, slots=True)
class Bias:
    """A bias of 32 bits.

    Attributes:
        integers: Name of the constant.
        values: Names of the float tensors that the graph makes of it.
        scale: Name of the constant that holds its scales.
        factors: The two scales, by name, whose product its own is.
    """

    integers: str
    values: tuple[str, ...]
    scale: str
    factors: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Activation:
    """A QuantizeLinear and the range of its integers.

    Attributes:
        ceiling: The largest that its scale may become. Where a Clip stands before it,
            the runtime leaves the Clip out as long as the integers reach no further.
    """

    node: str
    scale: str
    axis: int
    low: int
    high: int
    ceiling: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that is trained, in the graph's order, and what is not, and why."""

    weights: tuple[Weight, ...]
    biases: tuple[Bias, ...]
    activations: tuple[Activation, ...]
    plain: tuple[str, ...]
    scales: tuple[str, ...]
    left_out: tuple[str, ...]


class Index:
    """Who makes and who uses what in a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)

    def array(self, name: str) -> Array:
        """Return a constant's values."""
        return numpy_helper.to_array(self.constants[name])


@dataclass(frozen=True, slots=True)
class _Stored:
    """Integers in a graph, and one way in which they become floats there."""

    integers: str
    value: str
    scale: str
    zero: Array
    axis: int | None

    def like(self, other: "_Stored") -> bool:
        return (
            self.scale == other.scale
            and self.axis == other.axis
            and np.array_equal(self.zero, other.zero)
        )


def find_parts(model: onnx.ModelProto) -> Parts:
    """Return what of the graph can be trained; its scales are ``own_scales``.

    Raises:
        RejectedError: ``MODEL_INVALID`` naming a QuantizeLinear that rounds in a way
            not known here.
    """
    index = Index(model.graph)
    weights, biases, left_out = [], [], list(_not_trained(index))
    for group in _stored(index).values():
        found = _part(index, group)
        if isinstance(found, Weight):
            weights.append(found)
        elif isinstance(found, Bias):
            biases.append(found)
        else:
            left_out.append(found)
    activations = tuple(_activations(index))
    used = (*(p.scale for p in weights), *(p.scale for p in activations))
    return Parts(
        weights=tuple(weights),
        biases=tuple(biases),
        activations=activations,
        plain=tuple(dict.fromkeys(_plain(index))),
        scales=tuple(dict.fromkeys(used)),
        left_out=tuple(left_out),
    )


def _stored(index: Index) -> dict[str, list[_Stored]]:
    groups: dict[str, list[_Stored]] = {}
    for node in index.graph.node:
        if not node.input or node.input[0] not in index.constants:
            continue
        if node.op_type == "DequantizeLinear":
            groups.setdefault(node.input[0], []).append(_dequantized(index, node))
        elif node.op_type == "Cast":
            for found in _scaled(index, node):
                groups.setdefault(node.input[0], []).append(found)
    return groups


def _dequantized(index: Index, node: onnx.NodeProto) -> _Stored:
    scale = index.constants[node.input[1]]
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axis = given.get("axis", 1) if np.prod(scale.dims) > 1 else None
    has_zero = len(node.input) > ZERO and node.input[ZERO]
    zero = index.array(node.input[ZERO]) if has_zero else np.zeros(1)
    if given.get("block_size", 0):
        axis = BLOCKS
    return _Stored(
        node.input[0], node.output[0], node.input[1], zero.astype(np.float32), axis
    )


def _scaled(index: Index, node: onnx.NodeProto) -> Iterator[_Stored]:
    """Yield what Cast and Mul make of integers; the runtime folds it at load."""
    rank = len(index.constants[node.input[0]].dims)
    for user in index.consumers.get(node.output[0], []):
        scale = next((name for name in user.input if name in index.constants), "")
        if user.op_type != "Mul" or not scale:
            continue
        dims = [1] * (rank - len(index.constants[scale].dims))
        dims += list(index.constants[scale].dims)
        wide = [axis for axis, size in enumerate(dims) if size > 1]
        axis = BLOCKS if len(wide) > 1 else wide[0] if wide else None
        yield _Stored(
            node.input[0], user.output[0], scale, np.zeros(1, np.float32), axis
        )


def _part(index: Index, group: list[_Stored]) -> Weight | Bias | str:
    first, kind = group[0], index.constants[group[0].integers].data_type
    values = tuple(stored.value for stored in group)
    users = [user for name in values for user in index.consumers.get(name, [])]
    where = ", ".join(dict.fromkeys(repr(user.name) for user in users))
    if not all(first.like(other) for other in group):
        return f"the weights of {where} stay: they are read by several scales"
    if kind == TensorProto.INT32:
        return _bias(index, first, values, users)
    if kind not in RANGES or first.axis == BLOCKS:
        return f"the weights of {where} stay: they are stored in blocks or 4 bits"
    if users and all(user.op_type in LOOKUPS for user in users):
        return f"the table of {where} stays: it is looked up"
    low, high = _limits(index.array(first.integers), kind)
    return Weight(
        first.integers, values, first.scale, first.zero, first.axis, low, high
    )


def _bias(
    index: Index, stored: _Stored, values: tuple[str, ...], users: list[onnx.NodeProto]
) -> Bias | str:
    factors = []
    for name in users[0].input[:2] if users else ():
        node = index.producers.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            factors.append(node.input[1])
    if len(users) != 1 or len(factors) != len(("activation", "weight")):
        return f"the bias {stored.integers!r} stays: what it is added to is not known"
    return Bias(stored.integers, values, stored.scale, (factors[0], factors[1]))


def _limits(integers: Array, kind: int) -> tuple[int, int]:
    """Return the range that the integers were built for."""
    low, high = RANGES[kind]
    least, most = int(integers.min(initial=0)), int(integers.max(initial=0))
    if kind == TensorProto.UINT8:
        return (low, high // 2) if most <= high // 2 else (low, high)
    if kind == TensorProto.INT8 and least >= -SEVEN_BITS and most <= SEVEN_BITS:
        return -SEVEN_BITS, SEVEN_BITS
    return (low, high) if least == low else (low + 1, high)


def _activations(index: Index) -> Iterator[Activation]:
    for node in index.graph.node:
        if node.op_type == "QuantizeLinear":
            low, high = RANGES.get(_quantized_type(index, node), (0, 0))
            given = {one.name: one.i for one in node.attribute}
            if not high or given.get("block_size", 0):
                raise _refused(node, "its type is not one of 8 or 16 bits")
            if node.input[1] not in index.constants:
                raise _refused(node, "its scale is computed")
            yield Activation(
                node.name,
                node.input[1],
                given.get("axis", 1),
                low,
                high,
                _ceiling(index, node, low, high),
            )


def _ceiling(index: Index, node: onnx.NodeProto, low: int, high: int) -> float:
    clip = index.producers.get(node.input[0])
    if clip is None or clip.op_type != "Clip" or len(node.input) <= ZERO:
        return float("inf")
    zero = int(index.array(node.input[ZERO]).reshape(-1)[0])
    most = [float("inf")]
    for at, reach in ((1, low - zero), (2, high - zero)):
        name = clip.input[at] if at < len(clip.input) else ""
        if reach and name in index.constants:
            most.append(float(index.array(name)) / reach)
    start = float(index.array(node.input[1]).max())
    limit = min(most)
    return limit if start <= limit * ROUNDING else float("inf")


def _quantized_type(index: Index, node: onnx.NodeProto) -> int:
    if len(node.input) > ZERO and node.input[ZERO]:
        return int(index.constants[node.input[ZERO]].data_type)
    given = {one.name: one.i for one in node.attribute}
    return int(given.get("output_dtype", 0) or TensorProto.UINT8)


def _plain(index: Index) -> Iterator[str]:
    for node in index.graph.node:
        for place in PLACES.get(node.op_type, ()):
            if place < len(node.input) and _is_weight(index, node.input[place]):
                yield node.input[place]
        if node.op_type == "Add":
            yield from _added(index, node)


def _is_weight(index: Index, name: str) -> bool:
    """Return whether a float constant is used only where operators have weights."""
    constant = index.constants.get(name)
    if constant is None or constant.data_type != TensorProto.FLOAT:
        return False
    return all(
        place in PLACES.get(user.op_type, ())
        for user in index.consumers[name]
        for place, given in enumerate(user.input)
        if given == name
    )


def _added(index: Index, node: onnx.NodeProto) -> Iterator[str]:
    """Yield the bias that is added to a product of matrices."""
    for name, other in (node.input, node.input[::-1]):
        constant, source = index.constants.get(name), index.producers.get(other)
        if constant is None or constant.data_type != TensorProto.FLOAT:
            continue
        product = source is not None and source.op_type in ("MatMul", "Conv")
        if product and len(index.consumers[name]) == 1 and np.prod(constant.dims) > 1:
            yield name


def _not_trained(index: Index) -> Iterator[str]:
    for node in index.graph.node:
        if node.op_type == "MatMulInteger":
            yield f"{node.name!r} keeps its integers: it quantizes at run time"
        elif node.op_type == "MatMulNBits":
            yield f"{node.name!r} keeps its integers: they are stored in blocks"


def _refused(node: onnx.NodeProto, why: str) -> RejectedError:
    return RejectedError(
        Code.MODEL_INVALID,
        f"training needs {node.op_type} at node {node.name!r}: {why}; "
        "optimize without --qat",
    )
