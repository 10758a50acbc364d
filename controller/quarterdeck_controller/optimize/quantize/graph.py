"""A graph as an index: who makes a tensor, who reads it, what is constant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Index:
    """What is where in one graph.

    Attributes:
        constants: Initializers that cannot be fed, by name.
        makers: The node that makes a tensor.
        readers: The nodes of this graph, not of its subgraphs, that read a tensor.
        captured: Names that subgraphs read from this graph.
        inputs: Names of what is fed.
        outputs: Names of what is given out.
    """

    graph: onnx.GraphProto
    constants: Mapping[str, TensorProto]
    makers: Mapping[str, NodeProto]
    readers: Mapping[str, list[NodeProto]]
    captured: frozenset[str]
    inputs: frozenset[str]
    outputs: frozenset[str]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> "Index":
        """Return the index of ``graph``, which must not change while it is used."""
        inputs = frozenset(value.name for value in graph.input)
        readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return cls(
            graph=graph,
            constants={t.name: t for t in graph.initializer if t.name not in inputs},
            makers={name: node for node in graph.node for name in node.output if name},
            readers=readers,
            captured=frozenset(
                name for node in graph.node for name in captured_names(node)
            ),
            inputs=inputs,
            outputs=frozenset(value.name for value in graph.output),
        )

    def constant(self, name: str) -> Array | None:
        """Return the values of a constant, or None when it is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_reader(self, name: str) -> NodeProto | None:
        """Return the one node that reads a tensor, if nothing else sees it."""
        readers = self.readers.get(name, [])
        seen_elsewhere = name in self.captured or name in self.outputs
        return readers[0] if len(readers) == 1 and not seen_elsewhere else None


def subgraphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that are attributes of ``node``."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield ``graph`` and every graph inside it, the outer first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def captured_names(node: NodeProto) -> Iterator[str]:
    """Yield what the subgraphs of ``node`` may read from around them."""
    for graph in subgraphs(node):
        for inner in all_graphs(graph):
            for reader in inner.node:
                yield from reader.input
            yield from (value.name for value in inner.output)


def attribute(node: NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401
    """Return the value of an attribute, or ``default`` when it is absent."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def is_float(tensor: TensorProto) -> bool:
    """Tell whether a constant is of 32-bit floats."""
    return bool(tensor.data_type == TensorProto.FLOAT)


def size(tensor: TensorProto) -> int:
    """Return how many elements a constant has."""
    return int(np.prod(tensor.dims, dtype=np.int64))


def drop_unused(graph: onnx.GraphProto) -> None:
    """Delete the constants that nothing reads."""
    for inner in all_graphs(graph):
        index = Index.of(inner)
        kept = [
            tensor
            for tensor in inner.initializer
            if tensor.name in index.readers
            or tensor.name in index.captured
            or tensor.name in index.outputs
            or tensor.name in index.inputs
        ]
        if len(kept) < len(inner.initializer):
            del inner.initializer[:]
            inner.initializer.extend(kept)
