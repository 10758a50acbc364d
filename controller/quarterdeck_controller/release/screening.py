"""What must hold for bytes that are about to be signed, whoever made them.

The optimizer has its own, stricter view of what it takes in; this is the last look
before a class key vouches for a file. It parses without running anything, and bounds
every walk before it begins: the bytes may have been made to harm whoever reads them.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quarterdeck_controller.optimize.intake.graph import all_nodes, graphs, tensors
from quarterdeck_controller.optimize.intake.sound import check_sound
from quarterdeck_controller.optimize.intake.source import DOMAINS, parse
from quarterdeck_controller.optimize.profile import Gate
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden

MAX_GOLDEN_BYTES = 1 << 30
"""Unpacked. A small archive can hold very many zeros."""
MAX_ARRAYS = 65
MAX_HEADER_BYTES = 10_000
OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)
IR_VERSIONS = range(3, onnx.IR_VERSION + 1)

CONTROL_FLOW = frozenset(
    {"If", "Loop", "Scan", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling"}
    | {"WhisperBeamSearch"}
)
FORBIDDEN = frozenset({"EPContext"})
"""Operators that name another file, or hold code for an accelerator."""

STRICT = Gate()
"""For a class whose profile says nothing else."""

_INPUT, _EXPECTED = "input:", "expected:"
_DEFAULT = ("", "ai.onnx")


def check_model(data: bytes, gate: Gate = STRICT) -> onnx.ModelProto:
    """Return the model in ``data``, which stands alone and keeps within ``gate``.

    Raises:
        RejectedError: ``MODEL_INVALID``, with what is wrong.
    """
    if len(data) > gate.bytes:
        raise _bad_model(f"it has {len(data)} bytes, {gate.bytes} are allowed")
    model = parse(data)
    _check_depth(model, gate.depth)
    _check_versions(model)
    _check_tensors(model, gate)
    check_sound(model)  # names are text from here on
    _check_count(model, gate.nodes)
    _check_operators(model, gate)
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


def _check_depth(model: onnx.ModelProto, limit: int) -> None:
    # One level after the other: what is nested deep enough ends a recursion.
    level = [model.graph.node, *(function.node for function in model.functions)]
    for depth in range(limit + 2):
        inner = [
            graph.node
            for nodes in level
            for node in nodes
            for attribute in node.attribute
            for graph in (attribute.g, *attribute.graphs)
            if graph.node or graph.initializer or graph.output
        ]
        if not inner:
            return
        if depth >= limit:
            break
        level = inner
    raise _bad_model(f"its subgraphs are nested more than {limit} deep")


def _check_versions(model: onnx.ModelProto) -> None:
    if model.ir_version not in IR_VERSIONS:
        raise _bad_model(
            f"its IR version {model.ir_version} is not from {IR_VERSIONS[0]} to "
            f"{IR_VERSIONS[-1]}"
        )
    for entry in model.opset_import:
        if entry.domain in _DEFAULT and entry.version not in OPSETS:
            raise _bad_model(
                f"its opset {entry.version} is not from {OPSETS[0]} to {OPSETS[-1]}"
            )
    if model.training_info:
        raise _bad_model("it holds training graphs, which no device runs")


def _check_operators(model: onnx.ModelProto, gate: Gate) -> None:
    local = {(function.domain, function.name) for function in model.functions}
    versions = {entry.domain or "": entry.version for entry in model.opset_import}
    for node in all_nodes(model):
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in DOMAINS:
            raise _bad_model(
                f"the operator {node.domain}.{node.op_type} is of a custom domain, "
                "which no device has"
            )
        if node.op_type in FORBIDDEN:
            raise _bad_model(
                f"the operator {node.op_type} carries code or files for an accelerator"
            )
        if node.op_type in CONTROL_FLOW and not gate.control_flow:
            raise _bad_model(
                f"the operator {node.op_type} runs subgraphs, and the class does not "
                "allow that: control_flow = true in [gate] of its profile"
            )
        if node.domain in _DEFAULT and not _is_known(node.op_type, versions):
            raise _bad_model(f"there is no operator {node.op_type} in its opset")


def _is_known(operator: str, versions: Mapping[str, int]) -> bool:
    version = next((versions[name] for name in _DEFAULT if name in versions), 1)
    return bool(onnx.defs.has(operator, version, ""))


def _check_count(model: onnx.ModelProto, limit: int) -> None:
    """Count the operators as they are after every function was put in its place."""
    functions = {(f.domain, f.name): f for f in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def of(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(counted.get((node.domain, node.op_type), 1) for node in nodes)

    waiting = dict(functions)
    while waiting:
        ready = [
            key
            for key, function in waiting.items()
            if not any((n.domain, n.op_type) in waiting for n in _within(function.node))
        ]
        if not ready:
            raise _bad_model(
                f"its functions call each other in a circle: {_names(waiting)}"
            )
        for key in ready:
            counted[key] = min(of(_within(waiting.pop(key).node)), limit + 1)
    if max((of(_within(model.graph.node)), *counted.values())) > limit:
        raise _bad_model(f"it has more operators than the {limit} that are allowed")


def _within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _within(graph.node)


def _names(functions: Mapping[tuple[str, str], object]) -> str:
    return ", ".join(sorted(name for _, name in functions))


def _check_tensors(model: onnx.ModelProto, gate: Gate) -> None:
    for count, tensor in enumerate(tensors(model), start=1):
        if count > gate.tensors:
            raise _bad_model(f"it has more than {gate.tensors} constants")
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise _bad_model(
                f"the weights {tensor.name!r} are in another file; save it as one: "
                "onnx.save(onnx.load(path), out, save_as_external_data=False)"
            )
        _check_elements(f"constant {tensor.name!r}", tensor.dims, gate.elements)
    for name, dims in _shapes(model):
        _check_elements(name, dims, gate.elements)


def _shapes(model: onnx.ModelProto) -> Iterator[tuple[str, list[int]]]:
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            dims = value.type.tensor_type.shape.dim
            yield f"tensor {value.name!r}", [max(1, dim.dim_value) for dim in dims]
        for sparse in graph.sparse_initializer:
            yield f"constant {sparse.values.name!r}", list(sparse.dims)
    for node in all_nodes(model):
        for attribute in node.attribute:
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield f"a constant of {node.name!r}", list(sparse.dims)


def _check_elements(name: str, dims: Sequence[int], limit: int) -> None:
    count = prod(dims)
    if count > limit or any(dim < 0 for dim in dims):
        shape = "x".join(map(str, dims))
        raise _bad_model(f"{name} is {shape}; {limit} elements are allowed")


def _arrays(data: bytes) -> Mapping[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_archive(archive)
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _bad_golden(f"it is no .npz file of plain arrays: {error}") from error
    except (zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise _bad_golden(f"it is no .npz file of plain arrays: {error}") from error


def _check_archive(archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    if len(entries) > MAX_ARRAYS or len({e.filename for e in entries}) < len(entries):
        raise _bad_golden(
            f"it holds {len(entries)} arrays, {MAX_ARRAYS} of different names are "
            "allowed"
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_GOLDEN_BYTES:
        raise _bad_golden(
            f"it unpacks to {unpacked} bytes, {MAX_GOLDEN_BYTES} are allowed"
        )
    for entry in entries:
        with archive.open(entry) as file:
            _check_header(entry, file)


def _check_header(entry: zipfile.ZipInfo, file: IO[bytes]) -> None:
    """Refuse an array that says of itself that it is larger than it is."""
    major, _ = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if major == 1
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file, max_header_size=MAX_HEADER_BYTES)
    if dtype.hasobject:
        raise _bad_golden(f"it is no .npz file of plain arrays: {entry.filename}")
    size = prod(shape) * dtype.itemsize
    if size != entry.file_size - file.tell():
        raise _bad_golden(
            f"{entry.filename} says it has {size} bytes, "
            f"{entry.file_size - file.tell()} are there"
        )


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
