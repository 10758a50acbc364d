"""Walk a model: its graphs, their nodes and tensors, subgraphs and functions too."""

from collections.abc import Iterable, Iterator, MutableSequence
from math import prod
from typing import TypeVar

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

T = TypeVar("T")


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """Yield the node's own subgraphs with the names of their attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for number, inner in enumerate(attribute.graphs):
            yield f"{attribute.name}_{number}", inner


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield the graph and every subgraph under it, outer ones first."""
    yield graph
    for node in graph.node:
        for _, inner in subgraphs(node):
            yield from graphs(inner)


def walk(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for _, inner in subgraphs(node):
            yield from walk(inner)


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node of the model, those of its functions too."""
    yield from walk(model.graph)
    for function in model.functions:
        for node in function.node:
            yield node
            for _, inner in subgraphs(node):
                yield from walk(inner)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor that the model holds, wherever it is."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (
                    attribute.sparse_tensor.values,
                    attribute.sparse_tensor.indices,
                )
            yield from attribute.tensors


def opset_of(model: ModelProto) -> int:
    """Return the version of the default operator set."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return versions[0] if versions else 1


def attribute_of(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of the node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def replace(field: MutableSequence[T], values: Iterable[T]) -> None:
    """Make ``values`` the content of a repeated field."""
    kept = list(values)
    del field[:]
    field.extend(kept)


def size_of(tensor: TensorProto) -> int:
    """Return how many bytes the tensor's values take, wherever they are.

    Raises:
        ValueError: The tensor is of no known type.
    """
    if tensor.data_type in _PACKED:
        return (int(prod(tensor.dims)) + 1) // 2
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise ValueError(f"{tensor.name} is of no known type") from error
    return int(prod(tensor.dims)) * int(kind.itemsize)


_PACKED = frozenset({TensorProto.INT4, TensorProto.UINT4})
