"""What must hold for bytes that are about to be signed, whoever made them.

The optimizer has its own, stricter view of what it takes in; this is the last look
before a class key vouches for a file, and it parses without running anything.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quarterdeck_controller.optimize.intake.source import DOMAINS, parse
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden

MAX_GOLDEN_BYTES = 1 << 30
"""Unpacked. A small archive can hold very many zeros."""

_INPUT, _EXPECTED = "input:", "expected:"


def check_model(data: bytes) -> onnx.ModelProto:
    """Return the model in ``data``, which stands alone and needs no custom operator.

    Raises:
        RejectedError: ``MODEL_INVALID``, with what is wrong.
    """
    model = parse(data)
    nodes = list(_nodes(model.graph.node))
    for function in model.functions:
        nodes.extend(_nodes(function.node))
    local = {(function.domain, function.name) for function in model.functions}
    for node in nodes:
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
            raise _bad_model(
                f"the operator {node.domain}.{node.op_type} is of a custom domain, "
                "which no device has"
            )
    for tensor in _tensors([model.graph], nodes):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise _bad_model(
                f"the weights {tensor.name!r} are in another file; save it as one: "
                "onnx.save(onnx.load(path), out, save_as_external_data=False)"
            )
    return model


def check_golden(data: bytes, model: onnx.ModelProto, golden: Golden) -> None:
    """Return when ``data`` holds the golden vectors of ``model``.

    Raises:
        RejectedError: ``DATA_INVALID``, with what is wrong.
    """
    arrays = _arrays(data)
    constants = {tensor.name for tensor in model.graph.initializer}
    wanted = {
        _INPUT + value.name: value
        for value in model.graph.input
        if value.name not in constants
    }
    outputs = {_EXPECTED + value.name for value in model.graph.output}
    expected = {name for name in arrays if name.startswith(_EXPECTED)}
    if not expected or not expected <= outputs:
        raise _bad_golden(
            f"it holds {_told(expected)}, the model gives {_told(outputs)}"
        )
    if set(arrays) - expected != set(wanted):
        raise _bad_golden(
            f"it holds {_told(set(arrays) - expected)}, the model takes {_told(wanted)}"
        )
    for name, array in arrays.items():
        _check_array(name, array, golden.count)
        if name in wanted:
            _check_type(name, array, wanted[name])


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _nodes(graph.node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs)


def _tensors(
    graphs: Sequence[onnx.GraphProto], nodes: Sequence[onnx.NodeProto]
) -> Iterator[onnx.TensorProto]:
    inner = (graph for node in nodes for graph in _subgraphs(node))
    for graph in (*graphs, *inner):
        yield from graph.initializer
        yield from _dense(graph.sparse_initializer)
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            yield from _dense((attribute.sparse_tensor, *attribute.sparse_tensors))


def _dense(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _arrays(data: bytes) -> Mapping[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_GOLDEN_BYTES:
            raise _bad_golden(
                f"it unpacks to {unpacked} bytes, {MAX_GOLDEN_BYTES} are allowed"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _bad_golden(f"it is no .npz file of plain arrays: {error}") from error


def _check_array(name: str, array: NDArray[Any], count: int) -> None:
    if array.ndim == 0 or len(array) != count:
        shape = "x".join(map(str, array.shape)) or "a scalar"
        raise _bad_golden(
            f"{name} is {shape}, the evaluation speaks of {count} vectors"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _bad_golden(f"{name} holds values that are not finite")


def _check_type(name: str, array: NDArray[Any], value: onnx.ValueInfoProto) -> None:
    kind = value.type.tensor_type.elem_type
    try:
        wanted = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError as error:
        raise _bad_model(f"input {value.name} is not a tensor") from error
    if array.dtype != wanted:
        raise _bad_golden(f"{name} is {array.dtype}, the model takes {wanted}")


def _told(names: object) -> str:
    assert isinstance(names, set | Mapping)
    return ", ".join(sorted(map(str, names))) or "nothing"


def _bad_model(detail: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, f"model.onnx: {detail}")


def _bad_golden(detail: str) -> RejectedError:
    return RejectedError(Code.DATA_INVALID, f"golden.npz: {detail}")
