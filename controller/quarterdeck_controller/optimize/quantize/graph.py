"""A graph as an index: who makes a tensor, who reads it, what is constant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from types import MappingProxyType
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
        constants: Initializers that cannot be fed, by name, of the graphs around it
            too.
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
    def of(cls, graph: onnx.GraphProto, around: "Index | None" = None) -> "Index":
        """Return the index of ``graph``, which must not change while it is used.

        Args:
            graph: A graph.
            around: Of the graph that it is inside of, whose constants it sees.
        """
        inputs = frozenset(value.name for value in graph.input)
        readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        makers = {name: node for node in graph.node for name in node.output if name}
        outer = {} if around is None else around.constants
        own = {t.name: t for t in graph.initializer}
        hidden = inputs | makers.keys()
        return cls(
            graph=graph,
            constants={k: t for k, t in {**outer, **own}.items() if k not in hidden},
            makers=makers,
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


def indexed(
    graph: onnx.GraphProto, around: Index | None = None
) -> Iterator[tuple[onnx.GraphProto, Index]]:
    """Yield ``graph`` and every graph inside it with their indices, the outer first."""
    index = Index.of(graph, around)
    yield graph, index
    for node in graph.node:
        for inner in subgraphs(node):
            yield from indexed(inner, index)


def captured_names(node: NodeProto) -> Iterator[str]:
    """Yield what the subgraphs of ``node`` may read from around them."""
    for graph in subgraphs(node):
        for inner in all_graphs(graph):
            for reader in inner.node:
                yield from reader.input
            yield from (value.name for value in inner.output)


def make_node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    name: str,
    domain: str = "",
    attributes: Mapping[str, float | str] = MappingProxyType({}),
) -> NodeProto:
    """Return a new operator."""
    node = NodeProto(op_type=operator, name=name, domain=domain)
    node.input.extend(inputs)
    node.output.extend(outputs)
    for key, value in attributes.items():
        node.attribute.append(onnx.helper.make_attribute(key, value))
    return node


def copy_node(node: NodeProto) -> NodeProto:
    """Return a copy that outlives the graph that ``node`` is part of."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def integer(node: NodeProto, name: str, default: int) -> int:
    """Return an attribute that is an integer, or ``default`` when it is absent."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def real(node: NodeProto, name: str, default: float) -> float:
    """Return an attribute that is a float, or ``default`` when it is absent."""
    return next((float(a.f) for a in node.attribute if a.name == name), default)


def named_input(node: NodeProto, at: int) -> str:
    """Return the name of an input, empty when it is left out."""
    return str(node.input[at]) if at < len(node.input) else ""


def is_float(tensor: TensorProto) -> bool:
    """Tell whether a constant is of 32-bit floats."""
    return bool(tensor.data_type == TensorProto.FLOAT)


def size(tensor: TensorProto) -> int:
    """Return how many elements a constant has."""
    return int(np.prod(tensor.dims, dtype=np.int64))


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put every operator behind what it reads, else in the order they were in."""
    made = {name for node in graph.node for name in node.output if name}
    needed = {
        number: {name for name in (*node.input, *captured_names(node)) if name in made}
        for number, node in enumerate(graph.node)
    }
    readers: dict[str, list[int]] = {}
    for number, names in needed.items():
        for name in names:
            readers.setdefault(name, []).append(number)
    ready = [number for number, names in needed.items() if not names]
    heapify(ready)
    order = []
    while ready:
        number = heappop(ready)
        order.append(number)
        for name in graph.node[number].output:
            for reader in readers.get(name, []):
                needed[reader].discard(name)
                if not needed[reader]:
                    heappush(ready, reader)
    nodes = [copy_node(graph.node[number]) for number in order]
    del graph.node[:]
    graph.node.extend(nodes)


def keep_ancestors(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Keep of ``graph`` only what makes the tensors ``names``, and no outputs."""
    needed = set(names)
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(captured_names(node))
            kept.append(copy_node(node))
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    drop_unused(graph)


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
