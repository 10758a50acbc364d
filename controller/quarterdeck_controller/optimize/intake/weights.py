"""Which operators can be given a treatment, and what their weights are like."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from quarterdeck_controller.optimize.intake.graph import (
    attribute_of,
    size_of,
    subgraphs,
)
from quarterdeck_controller.optimize.intake.kinds import (
    CONVOLUTIONS,
    LOOKUPS,
    PRODUCTS,
    RECURRENT,
)
from quarterdeck_controller.optimize.steps import Node

TABLE_BYTES = 1024
"""A smaller table is not worth a treatment."""

Known = dict[str, TensorProto]
Floats = NDArray[np.float32]


def treatable(model: ModelProto, folder: Path) -> tuple[Node, ...]:
    """Return every operator that holds float weights or multiplies, in graph order.

    Args:
        model: Constants are initializers, nodes are named.
        folder: Where the external data of the model is.
    """
    return tuple(_in_graph(model.graph, {}, "", folder))


def _in_graph(
    graph: GraphProto, outer: Known, inside: str, folder: Path
) -> Iterator[Node]:
    known = outer | {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        found = _describe(node, known, inside, folder)
        if found is not None:
            yield found
        for _, inner in subgraphs(node):
            yield from _in_graph(inner, known, node.name, folder)


def _describe(node: NodeProto, known: Known, inside: str, folder: Path) -> Node | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    constants = [known.get(name) for name in node.input]
    if any(one is not None and one.data_type in _OTHER_FLOATS for one in constants):
        return None  # half and double operands take no int8 kernel
    weights = list(_weights(node, constants))
    if node.op_type in LOOKUPS:
        if not weights or size_of(weights[0]) < TABLE_BYTES:
            return None
    elif node.op_type not in CONVOLUTIONS | PRODUCTS | RECURRENT:
        return None
    rows = [_rows(node, one, constants, folder) for one in weights[:1]]
    return Node(
        name=node.name,
        operator=node.op_type,
        bytes=sum(size_of(one) for one in weights),
        channels=len(rows[0]) if rows else 0,
        imbalance=imbalance(rows[0]) if rows else 1.0,
        inside=inside,
    )


def _weights(
    node: NodeProto, constants: list[TensorProto | None]
) -> Iterator[TensorProto]:
    """Yield the constant tensors that a treatment would make integers."""
    if node.op_type in PRODUCTS:
        places = [1, 0]
    elif node.op_type in LOOKUPS:
        places = [0]
    else:
        places = [1, 2] if node.op_type in RECURRENT else [1]
    found = [constants[place] for place in places if place < len(constants)]
    floats = [one for one in found if one and one.data_type == TensorProto.FLOAT]
    yield from floats if node.op_type in RECURRENT else floats[:1]


def _rows(
    node: NodeProto,
    tensor: TensorProto,
    constants: list[TensorProto | None],
    folder: Path,
) -> Floats:
    """Return the weights as one row for each output channel."""
    array = np.asarray(numpy_helper.to_array(tensor, str(folder)), np.float32)
    if node.op_type == "ConvTranspose":
        groups = attribute_of(node, "group", 1)
        parts = array.reshape(groups, len(array) // max(groups, 1), array.shape[1], -1)
        return parts.transpose(0, 2, 1, 3).reshape(groups * array.shape[1], -1)
    if node.op_type in PRODUCTS:
        return _product_rows(node, array, is_left=constants[0] is tensor)
    if node.op_type in LOOKUPS:
        return array.reshape(-1, array.shape[-1]).T
    if node.op_type in RECURRENT:
        return array.reshape(-1, array.shape[-1])
    return array.reshape(len(array), -1)


def _product_rows(node: NodeProto, array: Floats, *, is_left: bool) -> Floats:
    if array.ndim < len("kn"):
        return array.reshape(1, -1)
    flipped = attribute_of(node, "transA" if is_left else "transB", 0)
    rows_first = is_left != bool(flipped)
    last = array if rows_first else np.swapaxes(array, -1, -2)
    moved = np.moveaxis(last, -2, 0)
    return moved.reshape(len(moved), -1)


def imbalance(rows: Floats) -> float:
    """Return the largest over the median magnitude of channels that are not zero."""
    if not rows.size:
        return 1.0
    sizes = np.abs(rows).max(axis=1)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return float(sizes.max() / np.median(sizes)) if len(sizes) else 1.0


_OTHER_FLOATS = frozenset(
    {TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
)
