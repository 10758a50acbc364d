"""Look at a model file: what it is, what will be hard, and what must be refused.

Runs in a child. Nothing here changes the model.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from math import prod

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from quarterdeck_controller.optimize.steps import InspectRequest, Source, Tensor
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that onnxruntime has kernels for."""

QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        "MatMulNBits",
        "MatMulBnb4",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulIntegerToFloat",
        "QAttention",
        "QGemm",
    }
)
"""Operators that only a quantized model has; so has any that starts with QLinear."""

HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
CONTROL = frozenset({"If", "Loop", "Scan"})
OLD_OPSET = 13
SMALL_BYTES = 80_000
FLOATS = frozenset({"float32", "float64", "float16"})


def inspect(request: InspectRequest) -> Source:
    """Return what the model at ``request.model`` is.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it cannot be optimized, with the reason.
    """
    data = _read(request)
    model = parse(data)
    nodes = list(walk(model.graph))
    _refuse_external(model)
    _refuse_foreign(model, nodes)
    if not request.quantized:
        _refuse_quantized(nodes)
    inputs = tuple(_tensor(value) for value in _real_inputs(model.graph))
    outputs = tuple(_tensor(value) for value in model.graph.output)
    _refuse_inputs(inputs)
    return Source(
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        opset=opset_of(model),
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        parameters=_count_parameters(model),
        inputs=inputs,
        outputs=outputs,
        score_output=_score_output(outputs),
        operators=dict(Counter(node.op_type for node in nodes).most_common()),
        notes=tuple(_hard(model, nodes, len(data))),
    )


def parse(data: bytes) -> onnx.ModelProto:
    """Return the model that ``data`` holds.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it holds none.
    """
    if not data:
        raise _invalid("the file is empty")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise _invalid("the file is not an ONNX model: it does not parse") from error
    if not model.ir_version or not model.graph.node or not model.opset_import:
        raise _invalid("the file is not an ONNX model: it holds no graph")
    return model


def walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from walk(attribute.g)
            for inner in attribute.graphs:
                yield from walk(inner)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return versions[0] if versions else 1


def _read(request: InspectRequest) -> bytes:
    try:
        return request.model.read_bytes()
    except OSError as error:
        raise _invalid(
            f"{request.model} could not be read: {error.strerror}"
        ) from error


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in walk(model.graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from attribute.g.initializer


def _refuse_external(model: onnx.ModelProto) -> None:
    files = {
        entry.value
        for tensor in _tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if files:
        raise _invalid(
            f"its weights are in other files ({', '.join(sorted(files))}); save it as "
            "one file: onnx.save(onnx.load(path), out, save_as_external_data=False)"
        )


def _refuse_foreign(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    local = {(f.domain, f.name) for f in model.functions}
    versions = {o.domain: o.version for o in model.opset_import}
    foreign, unknown = set(), set()
    for node in nodes:
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in DOMAINS:
            foreign.add(f"{node.domain}.{node.op_type}")
        elif node.domain != "com.microsoft" and not _is_known(node, versions):
            unknown.add(node.op_type)
    if foreign:
        raise _invalid(
            f"it uses operators of custom domains that onnxruntime does not have: "
            f"{', '.join(sorted(foreign))}"
        )
    if unknown:
        raise _invalid(
            f"opset {opset_of(model)} has no operator {', '.join(sorted(unknown))}"
        )


def _is_known(node: onnx.NodeProto, versions: dict[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain, versions.get("ai.onnx", 1))
    try:
        onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _refuse_quantized(nodes: list[onnx.NodeProto]) -> None:
    found = Counter(
        node.op_type
        for node in nodes
        if node.op_type in QUANTIZED or node.op_type.startswith("QLinear")
    )
    if found:
        told = ", ".join(f"{count} {name}" for name, count in found.most_common(4))
        raise _invalid(
            f"it is already quantized ({told}); bring the float model it was made from"
        )


def _real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise _invalid(f"{value.name} is a {kind or 'value of no type'}, not a tensor")
    tensor = value.type.tensor_type
    if tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise _invalid(f"{value.name} is a tensor of strings, or of no type")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    dims = tensor.shape.dim
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return Tensor(name=value.name, dtype=str(dtype), shape=shape)


def _refuse_inputs(inputs: tuple[Tensor, ...]) -> None:
    if not inputs:
        raise _invalid("it takes no input")
    for tensor in inputs:
        if not tensor.shape:
            raise _invalid(f"input {tensor.name} has no dimension for the samples")
        if tensor.shape[0] not in (None, 1):
            raise _invalid(
                f"input {tensor.name} has a fixed batch of {tensor.shape[0]}; devices "
                "run one sample at a time: export it with a batch of 1 or a free one"
            )
        if tensor.dtype == "float16":
            raise _invalid(f"input {tensor.name} is float16; bring the float32 model")


def _score_output(outputs: tuple[Tensor, ...]) -> str:
    scores = [tensor.name for tensor in outputs if tensor.dtype in FLOATS]
    if not scores:
        told = ", ".join(f"{tensor.name} ({tensor.dtype})" for tensor in outputs)
        raise _invalid(
            f"no output holds floats to judge it by, there is {told}; export the "
            "scores, not their arg-max"
        )
    return scores[0]


def _count_parameters(model: onnx.ModelProto) -> int:
    return sum(prod(t.dims) for t in _tensors(model) if t.data_type in _FLOAT_TYPES)


def _hard(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], size: int
) -> Iterator[str]:
    kinds = {node.op_type for node in nodes}
    if not kinds & HEAVY:
        yield "it has no Conv, MatMul or Gemm: there is nothing worth quantizing"
    if kinds & RECURRENT:
        told = ", ".join(sorted(kinds & RECURRENT))
        yield f"{told} stays in float: int8 kernels for it lose too much"
    if kinds & CONTROL:
        told = ", ".join(sorted(kinds & CONTROL))
        yield f"what is inside {told} stays in float"
    if opset_of(model) < OLD_OPSET:
        yield f"opset {opset_of(model)} is converted to 17: per-channel scales need 13"
    if size < SMALL_BYTES:
        yield f"at {size} bytes the graph outweighs the weights: little is saved"
    if any(t.data_type == TensorProto.FLOAT16 for t in _tensors(model)):
        yield "some weights are float16 already: they stay as they are"


_FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})


def _invalid(detail: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, detail)
