"""Make a half or double precision graph compute in float32, which kernels are for."""

from collections.abc import Iterable, MutableSequence

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from quarterdeck_controller.optimize.intake.external import is_external
from quarterdeck_controller.optimize.intake.graph import (
    graphs,
    replace,
    subgraphs,
    tensors,
)

HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
DOUBLE = frozenset({TensorProto.DOUBLE})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "stash_type"})


def holds(model: ModelProto, kinds: Iterable[int]) -> bool:
    """Return whether the model holds a tensor, or takes or gives one, of ``kinds``."""
    wanted = frozenset(kinds)
    values = (*model.graph.input, *model.graph.output)
    return any(t.data_type in wanted for t in tensors(model)) or any(
        value.type.tensor_type.elem_type in wanted for value in values
    )


def to_float32(model: ModelProto, kinds: frozenset[int]) -> ModelProto:
    """Return the model with every tensor of ``kinds`` in float32.

    What it takes and gives keeps its type.

    Raises:
        ValueError: Weights are in another file.
    """
    if any(is_external(tensor) for tensor in tensors(model)):
        raise ValueError("the weights are in another file")
    graph = model.graph
    first = [_cast_input(graph, v) for v in graph.input if _is_of(v, kinds)]
    last = [_cast_output(graph, v) for v in graph.output if _is_of(v, kinds)]
    for inner in graphs(graph):
        del inner.value_info[:]
        replace(inner.initializer, [_single(t, kinds) for t in inner.initializer])
        for node in inner.node:
            _retype(node, kinds)
        if inner is not graph:
            for value in (*inner.input, *inner.output):
                if _is_of(value, kinds):
                    value.type.tensor_type.elem_type = TensorProto.FLOAT
    replace(graph.node, [*first, *graph.node, *last])
    return model


def _is_of(value: ValueInfoProto, kinds: frozenset[int]) -> bool:
    return value.type.tensor_type.elem_type in kinds


def _single(tensor: TensorProto, kinds: frozenset[int]) -> TensorProto:
    if tensor.data_type not in kinds:
        return tensor
    array = numpy_helper.to_array(tensor).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{tensor.name} does not fit float32")
    return numpy_helper.from_array(array, tensor.name)


def _retype(node: NodeProto, kinds: frozenset[int]) -> None:
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in kinds:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_single(attribute.t, kinds))


def _cast_input(graph: GraphProto, value: ValueInfoProto) -> NodeProto:
    name = f"{value.name}/float32"
    for inner in graphs(graph):
        for node in inner.node:
            _redirect(node.input, value.name, name)
        if inner is not graph:
            for output in inner.output:
                output.name = name if output.name == value.name else output.name
    return helper.make_node("Cast", [value.name], [name], to=TensorProto.FLOAT)


def _cast_output(graph: GraphProto, value: ValueInfoProto) -> NodeProto:
    name = f"{value.name}/float32"
    for node in graph.node:
        _redirect(node.output, value.name, name)
        _redirect(node.input, value.name, name)
        for _, inner in subgraphs(node):
            for deep in graphs(inner):
                for one in deep.node:
                    _redirect(one.input, value.name, name)
    kind = value.type.tensor_type.elem_type
    return helper.make_node("Cast", [name], [value.name], to=kind)


def _redirect(names: MutableSequence[str], old: str, new: str) -> None:
    for at, name in enumerate(names):
        if name == old:
            names[at] = new
