"""Check that what a model file says of itself holds together.

A file that parses may still be damaged: names that are no text, types that there are
not, tensors with fewer bytes than their shape takes.
"""

from collections.abc import Iterator

from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper

from quarterdeck_controller.optimize.intake.external import is_external
from quarterdeck_controller.optimize.intake.graph import (
    all_nodes,
    graphs,
    size_of,
    tensors,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


def check_sound(model: ModelProto) -> None:
    """Refuse a model that is damaged.

    Raises:
        RejectedError: ``MODEL_INVALID``, with what is wrong.
    """
    if any(isinstance(name, bytes) for name in _names(model)):
        raise _damaged("it has a name that is no text")
    for tensor in tensors(model):
        _check_tensor(tensor)
    for value in (*model.graph.input, *model.graph.output):
        _check_value(value)


def _names(model: ModelProto) -> Iterator[str | bytes]:
    for node in all_nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for graph in graphs(model.graph):
        yield graph.name
        yield from (value.name for value in (*graph.input, *graph.output))
        yield from (value.name for value in graph.value_info)
    yield from (tensor.name for tensor in tensors(model))
    yield from (entry.domain for entry in model.opset_import)
    yield from (model.producer_name, model.producer_version)


def _check_tensor(tensor: TensorProto) -> None:
    if any(dim < 0 for dim in tensor.dims):
        raise _damaged(f"tensor {tensor.name} has the shape {list(tensor.dims)}")
    try:
        size = size_of(tensor)
    except ValueError as error:
        raise _damaged(str(error)) from error
    if is_external(tensor) or tensor.data_type == TensorProto.STRING:
        return
    if not tensor.HasField("raw_data"):
        _check_listed(tensor)
    elif len(tensor.raw_data) != size:
        raise _damaged(
            f"tensor {tensor.name} holds {len(tensor.raw_data)} bytes, its shape "
            f"{list(tensor.dims)} takes {size}"
        )


def _check_listed(tensor: TensorProto) -> None:
    """Check a tensor that lists its values one by one."""
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(f"tensor {tensor.name}: {error}") from error


def _check_value(value: ValueInfoProto) -> None:
    kind = value.type.tensor_type.elem_type
    if kind not in TensorProto.DataType.values():
        raise _damaged(f"{value.name} is of type {kind}, which there is not")


def _damaged(what: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, f"the file is damaged: {what}")
