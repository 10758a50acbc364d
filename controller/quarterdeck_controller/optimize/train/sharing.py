"""Which scales must stay equal, and a constant of their own for each group of them.

Identical constants of a graph are stored once, by chance too: every activation cut off
at six has the same scale. What is to learn by itself needs its own constant. What must
not learn by itself keeps one together: a tensor's two ends, and both sides of an
operator that only moves values, which the runtime runs on integers only then.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MOVERS = frozenset(
    {
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
Group = tuple[str, ...]
"""What tells groups of equal scales apart."""


def own_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with one constant of scales for each group, and no other.

    Nodes keep their names; only what they read as scale, and as bias of 32 bits, may
    get another name.

    Raises:
        RejectedError: ``MODEL_INVALID`` naming a node that reads integers by another
            scale than they were written by.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in own.graph.initializer}
    taken: dict[str, Group] = {}
    chosen: dict[Group, str] = {}
    for group, node, at in _readers(own.graph, constants):
        name = node.input[at]
        if group not in chosen:
            chosen[group] = _own(own.graph, constants, taken, group, name)
        elif not _equal(constants[name], constants[chosen[group]]):
            raise RejectedError(
                Code.MODEL_INVALID,
                f"training needs {node.op_type} at node {node.name!r}: it reads by "
                "another scale than was written by; optimize without --qat",
            )
        node.input[at] = chosen[group]
    return own


def _own(
    graph: onnx.GraphProto,
    constants: dict[str, TensorProto],
    taken: dict[str, Group],
    group: Group,
    name: str,
) -> str:
    """Return the name of a constant that only ``group`` reads."""
    own, number = name, 1
    while own in taken or (own in constants and own != name):
        own, number = f"{name}_{number}", number + 1
    if own != name:
        copy = graph.initializer.add()
        copy.CopyFrom(constants[name])
        copy.name = own
        constants[own] = copy
    taken[own] = group
    return own


def _readers(
    graph: onnx.GraphProto, constants: dict[str, TensorProto]
) -> Iterator[tuple[Group, onnx.NodeProto, int]]:
    """Yield which node reads a group's constant at which input."""
    casts: dict[str, str] = {}
    groups: dict[str, Group] = {}
    for node in graph.node:
        first = node.input[0] if node.input else ""
        if node.op_type == "QuantizeLinear" and node.input[1] in constants:
            group = groups.get(first) or (node.name,)
            if groups.get(first) and not _same_scale(graph, constants, node, group):
                group = (node.name,)
            groups[node.output[0]] = group
            yield group, node, 1
        elif node.op_type == "DequantizeLinear" and first in constants:
            yield from _stored(node, constants)
        elif node.op_type == "DequantizeLinear" and first in groups:
            groups[node.output[0]] = groups[first]
            yield groups[first], node, 1
        elif node.op_type == "Cast" and first in constants:
            casts[node.output[0]] = first
        elif node.op_type == "Mul" and (found := _scaled(node, casts, constants)):
            yield found
        elif node.op_type in MOVERS and first in groups:
            groups |= dict.fromkeys(node.output, groups[first])


def _same_scale(
    graph: onnx.GraphProto,
    constants: dict[str, TensorProto],
    node: onnx.NodeProto,
    group: Group,
) -> bool:
    source = next(one for one in graph.node if one.name == group[0])
    return _equal(constants[source.input[1]], constants[node.input[1]])


def _stored(
    node: onnx.NodeProto, constants: dict[str, TensorProto]
) -> Iterator[tuple[Group, onnx.NodeProto, int]]:
    integers, scale = node.input[0], node.input[1]
    if constants[integers].data_type == TensorProto.INT32:  # a bias, by chance shared
        yield ("bias", node.name), node, 0
        yield ("units", node.name), node, 1
    else:
        yield ("stored", integers, scale), node, 1


def _scaled(
    node: onnx.NodeProto, casts: dict[str, str], constants: dict[str, TensorProto]
) -> tuple[Group, onnx.NodeProto, int] | None:
    for at, other in ((0, 1), (1, 0)):
        if node.input[at] in constants and node.input[other] in casts:
            integers = casts[node.input[other]]
            return ("stored", integers, node.input[at]), node, at
    return None


def _equal(first: TensorProto, second: TensorProto) -> bool:
    return np.array_equal(
        numpy_helper.to_array(first).reshape(-1),
        numpy_helper.to_array(second).reshape(-1),
    )
