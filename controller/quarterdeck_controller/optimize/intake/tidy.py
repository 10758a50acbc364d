"""Write a graph plainly: constants as initializers, nothing unused, every node named.

Each function changes the model in place; none changes what it computes.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from quarterdeck_controller.optimize.intake.graph import (
    graphs,
    replace,
    subgraphs,
    walk,
)

_PLAIN = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
IR_VERSION = 8


def hoist(model: ModelProto) -> None:
    """Make constants initializers, and initializers no longer inputs."""
    for graph in graphs(model.graph):
        outputs = {value.name for value in graph.output}
        kept = []
        for node in graph.node:
            tensor = _constant(node)
            if tensor is None or node.output[0] in outputs:
                kept.append(node)
                continue
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        replace(graph.node, kept)
        _densify(graph)
        names = {tensor.name for tensor in graph.initializer}
        replace(graph.input, [v for v in graph.input if v.name not in names])
    model.ir_version = max(model.ir_version, IR_VERSION)


def drop_outputs(model: ModelProto, names: frozenset[str]) -> None:
    """Give the outputs called ``names`` no more."""
    replace(model.graph.output, [v for v in model.graph.output if v.name not in names])


def prune(model: ModelProto) -> None:
    """Remove nodes and initializers that no output needs."""
    _prune(model.graph)


def forget_shapes(model: ModelProto) -> None:
    """Drop what the file says of inner tensors, which may be stale."""
    for graph in graphs(model.graph):
        del graph.value_info[:]


def name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own: ``<If name>/then_branch/<node>`` inside."""
    _name(model.graph, "", set())


def lift(model: ModelProto) -> None:
    """Hold every constant in the outermost graph, under a name of its own.

    No two tensors share a name then, not even in two branches.
    """
    _rename(model.graph, {}, _outer_names(model.graph), is_outer=True)
    for graph in graphs(model.graph):
        if graph is not model.graph:
            model.graph.initializer.extend(graph.initializer)
            del graph.initializer[:]


def _constant(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(attribute.t)
            return tensor
        if attribute.name == "sparse_value":
            return dense(attribute.sparse_tensor)
        if attribute.name in _PLAIN:
            value = onnx.helper.get_attribute_value(attribute)
            array = np.asarray(value, _PLAIN[attribute.name])
            return numpy_helper.from_array(array)
    return None


def dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    """Return the sparse tensor with its zeros."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices] = values
    else:
        array[tuple(indices.T)] = values
    return numpy_helper.from_array(array, sparse.values.name)


def _densify(graph: GraphProto) -> None:
    graph.initializer.extend(dense(sparse) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]


def _prune(graph: GraphProto) -> None:
    for node in graph.node:
        for _, inner in subgraphs(node):
            _prune(inner)
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output) or not any(node.output):
            kept.append(node)
            needed.update(_reads(node))
    replace(graph.node, reversed(kept))
    replace(graph.initializer, [t for t in graph.initializer if t.name in needed])


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield every tensor that the node needs, those its subgraphs capture too."""
    yield from filter(None, node.input)
    for _, inner in subgraphs(node):
        for deep in walk(inner):
            yield from filter(None, deep.input)
        for graph in graphs(inner):
            yield from (value.name for value in graph.output)


def _name(graph: GraphProto, prefix: str, taken: set[str]) -> None:
    for number, node in enumerate(graph.node):
        wanted = node.name or f"{node.op_type}_{number}"
        if not wanted.startswith(prefix):
            wanted = prefix + wanted
        node.name = _free(wanted, taken)
        taken.add(node.name)
        for name, inner in subgraphs(node):
            _name(inner, f"{node.name}/{name}/", taken)


def _free(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _outer_names(graph: GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output)}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(name for node in graph.node for name in node.output)
    return names


def _rename(
    graph: GraphProto, known: dict[str, str], taken: set[str], *, is_outer: bool
) -> None:
    here = dict(known)
    if not is_outer:
        for name in _defined(graph):
            here[name] = _free(name, taken)
            taken.add(here[name])
        for thing in (
            *graph.input,
            *graph.output,
            *graph.initializer,
            *graph.value_info,
        ):
            thing.name = here.get(thing.name, thing.name)
    for node in graph.node:
        replace(node.input, [here.get(name, name) for name in node.input])
        replace(node.output, [here.get(name, name) for name in node.output])
        for _, inner in subgraphs(node):
            _rename(inner, here, taken, is_outer=False)


def _defined(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from filter(None, node.output)
