"""What the repairs read of a graph: constants, attributes, shapes, names in use."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

Array = NDArray[Any]
Shape = tuple[int | None, ...]


@dataclass(slots=True)
class View:
    """A graph by name. Constants that several operators share are told by ``uses``.

    Attributes:
        constants: Initializers by name.
        uses: How often each tensor is read, subgraphs included.
        fixed: Tensors that something outside the operators of this graph reads: its
            outputs, and what a subgraph reads.
    """

    graph: onnx.GraphProto
    constants: Mapping[str, TensorProto]
    shapes: Mapping[str, Shape]
    uses: Counter[str]
    fixed: frozenset[str]
    _read: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> "View":
        """Return a view of ``graph``; it does not follow later changes."""
        inner = [name for node in graph.node for name in _inner_reads(node)]
        fixed = frozenset([*(value.name for value in graph.output), *inner])
        uses = Counter(name for node in graph.node for name in node.input)
        uses.update(inner)
        constants = {tensor.name: tensor for tensor in graph.initializer}
        return cls(graph, constants, _shapes(graph), uses, fixed)

    def constant(self, name: str) -> Array | None:
        """Return a constant's value, or None when ``name`` is none."""
        if name not in self.constants:
            return None
        if name not in self._read:
            self._read[name] = numpy_helper.to_array(self.constants[name])
        return self._read[name]

    def weights(self, name: str) -> Array | None:
        """Return a constant of float32, or None."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return self.constant(name)

    def rank(self, name: str) -> int | None:
        """Return how many dimensions a tensor has, where that is known."""
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return an attribute that is one integer."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def integers(node: onnx.NodeProto, name: str) -> tuple[int, ...] | None:
    """Return an attribute that is a list of integers, or None."""
    found = (tuple(a.ints) for a in node.attribute if a.name == name)
    return next(found, None)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """Return an attribute that is a word."""
    found = (a.s.decode() for a in node.attribute if a.name == name)
    return next(found, default)


def operand(node: onnx.NodeProto, slot: int) -> str:
    """Return the name of an input, empty when it is left out."""
    return node.input[slot] if slot < len(node.input) else ""


def replace_constant(view: View, node: onnx.NodeProto, slot: int, value: Array) -> None:
    """Give ``node`` another constant; a constant that others read is left as it is."""
    name = node.input[slot]
    held = view.constants[name]
    fresh = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
    if view.uses[name] == 1 and name not in view.fixed:
        held.CopyFrom(fresh)
        return
    fresh.name = free_name(view.graph, f"{name}/{node.name}")
    node.input[slot] = fresh.name
    view.graph.initializer.append(fresh)


def free_name(graph: onnx.GraphProto, wanted: str) -> str:
    """Return ``wanted``, or with a number where it is taken."""
    taken = {tensor.name for tensor in graph.initializer}
    taken |= {value.name for value in graph.input}
    for node in graph.node:
        taken.update([node.name, *node.output])
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}/{number}"
    return name


def _inner_reads(node: onnx.NodeProto) -> Iterator[str]:
    for found in node.attribute:
        for graph in (*([found.g] if found.HasField("g") else []), *found.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from _inner_reads(inner)


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else None
                for dim in kind.shape.dim
            )
    found.update({t.name: tuple(t.dims) for t in graph.initializer})
    return found
