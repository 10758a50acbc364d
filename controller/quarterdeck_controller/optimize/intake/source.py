"""Look at a model file: what it is, what will be hard, and what must be refused.

Runs in a child. Nothing here changes the model, and weights in other files are not
read, but for their digest.
"""

from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from quarterdeck_controller.optimize.intake import hard
from quarterdeck_controller.optimize.intake.external import (
    check_external,
    digest,
    is_external,
)
from quarterdeck_controller.optimize.intake.graph import (
    all_nodes,
    attribute_of,
    opset_of,
    tensors,
)
from quarterdeck_controller.optimize.intake.quantized import signs_of_quantization
from quarterdeck_controller.optimize.intake.shapes import takes_batches
from quarterdeck_controller.optimize.intake.sound import check_sound
from quarterdeck_controller.optimize.steps import InspectRequest, Source, Tensor
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that onnxruntime has kernels for."""
MACHINE_DOMAINS = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""What onnxruntime makes of a graph for the machine that it runs on."""
FLOATS = frozenset({"float32", "float64", "float16"})
MAX_BYTES = (1 << 31) - 1
"""Protocol buffers end here, and so does every reader of them."""
HUGE = 1e6
FEW = 1 << 16
"""Constants with more elements are weights, not masks."""


def inspect(request: InspectRequest) -> Source:
    """Return what the model at ``request.model`` is.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it cannot be optimized, with the reason.
    """
    model = parse(read(request.model))
    check_sound(model)
    files = check_external(model, request.model.parent)
    nodes = list(all_nodes(model))
    _refuse_foreign(model, nodes)
    if not request.quantized:
        _refuse_quantized(model)
    inputs = tuple(_input(value) for value in _real_inputs(model.graph))
    outputs = tuple(filter(None, map(_output, model.graph.output)))
    _refuse_inputs(inputs, outputs)
    sha256, size = digest(request.model, files)
    return Source(
        sha256=sha256,
        bytes=size,
        opset=opset_of(model),
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        parameters=_count_parameters(model),
        inputs=inputs,
        outputs=outputs,
        score_output=_score_output(outputs),
        operators=dict(Counter(node.op_type for node in nodes).most_common()),
        external=files,
        notes=tuple(hard.notes(_facts(model, nodes, inputs, outputs, size))),
    )


def read(path: Path) -> bytes:
    """Return the bytes of the model file, which may name data files beside it.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it cannot be read, or is larger than any
            model file can be.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _invalid(
                f"{path.name} has {size} bytes, a model file ends at 2 GiB; keep the "
                "weights in a file beside it: onnx.save(model, path, "
                "save_as_external_data=True)"
            )
        return path.read_bytes()
    except OSError as error:
        raise _invalid(f"{path} could not be read: {error.strerror}") from error


def parse(data: bytes) -> ModelProto:
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


def unjudged(graph: GraphProto) -> frozenset[str]:
    """Return the outputs that are no tensors of numbers."""
    return frozenset(value.name for value in graph.output if _output(value) is None)


def _refuse_foreign(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    local = {(f.domain, f.name) for f in model.functions}
    versions = {o.domain: o.version for o in model.opset_import}
    foreign, unknown, bound = set(), set(), set()
    for node in nodes:
        if (node.domain, node.op_type) in local:
            continue
        if node.domain in MACHINE_DOMAINS:
            bound.add(node.op_type)
        elif node.domain not in DOMAINS:
            foreign.add(f"{node.domain}.{node.op_type}")
        elif node.domain != "com.microsoft" and not _is_known(node, versions):
            unknown.add(node.op_type)
    if bound:
        raise _invalid(
            f"onnxruntime saved it after optimizing it for one kind of machine "
            f"({', '.join(sorted(bound))}); bring the model it was made from"
        )
    if foreign:
        raise _invalid(
            f"it uses operators of custom domains that onnxruntime does not have: "
            f"{', '.join(sorted(foreign))}"
        )
    if unknown:
        raise _invalid(
            f"opset {opset_of(model)} has no operator {', '.join(sorted(unknown))}"
        )


def _is_known(node: NodeProto, versions: dict[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain, versions.get("ai.onnx", 1))
    try:
        onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _refuse_quantized(model: ModelProto) -> None:
    found = signs_of_quantization(model)
    if found:
        told = ", ".join(f"{count} {name}" for name, count in found.items())
        raise _invalid(
            f"it is already quantized ({told}); bring the float model it was made from"
        )


def _real_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {sparse.values.name for sparse in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in constants]


def _input(value: ValueInfoProto) -> Tensor:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        told = "value of no type" if kind is None else kind.removesuffix("_type")
        raise _invalid(
            f"input {value.name} is a {told}, not a tensor: samples cannot be fed to it"
        )
    if value.type.tensor_type.elem_type in _NO_NUMBERS:
        raise _invalid(f"input {value.name} is a tensor of strings, or of no type")
    if value.type.tensor_type.elem_type in _NARROW_FLOATS:
        name = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        raise _invalid(
            f"input {value.name} is {name}, which numpy has no type for; export it "
            "with a float32 input"
        )
    if not value.type.tensor_type.HasField("shape"):
        raise _invalid(
            f"input {value.name} does not say how many dimensions it has; export it "
            "with a shape, free dimensions named"
        )
    return _tensor(value)


def _output(value: ValueInfoProto) -> Tensor | None:
    """Return an output of numbers; None is one that cannot be judged."""
    if value.type.WhichOneof("value") != "tensor_type":
        return None
    kind = value.type.tensor_type.elem_type
    return None if kind in _NO_NUMBERS | _NARROW_FLOATS else _tensor(value)


def _tensor(value: ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
    return Tensor(name=value.name, dtype=str(dtype), shape=shape)


def _refuse_inputs(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    if not inputs:
        raise _invalid("it takes no input")
    firsts = {tensor.shape[0] for tensor in inputs if tensor.shape}
    if len(firsts) != 1 or firsts & {None, 1}:
        return
    batch = firsts.pop()
    first = outputs[0].shape[:1] if outputs else ()
    if first in ((), (batch,)):
        raise _invalid(
            f"input {inputs[0].name} has a fixed batch of {batch}; devices run one "
            "sample at a time: export it with a batch of 1 or a free one"
        )


def _score_output(outputs: Sequence[Tensor]) -> str:
    scores = [tensor.name for tensor in outputs if tensor.dtype in FLOATS]
    if not scores:
        told = ", ".join(f"{tensor.name} ({tensor.dtype})" for tensor in outputs)
        raise _invalid(
            "no output holds floats to judge it by, there is "
            f"{told or 'no tensor of numbers'}; export the scores, not their arg-max"
        )
    return scores[0]


def _count_parameters(model: ModelProto) -> int:
    return sum(prod(t.dims) for t in tensors(model) if t.data_type in _FLOAT_TYPES)


def _facts(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    size: int,
) -> hard.Facts:
    judged = {tensor.name for tensor in outputs}
    given = [value.name for value in model.graph.output]
    return hard.Facts(
        operators=Counter(node.op_type for node in nodes),
        opset=opset_of(model),
        bytes=size,
        types=frozenset(
            _FLOAT_TYPES[t.data_type]
            for t in tensors(model)
            if t.data_type in _FLOAT_TYPES
        ),
        depthwise=_depthwise(model),
        huge=sum(_is_huge(tensor) for tensor in tensors(model)),
        free=tuple(t.name for t in inputs if None in t.shape[1:]),
        whole=tuple(t.name for t in inputs if not takes_batches(t)),
        unjudged=tuple(name for name in given if name not in judged),
    )


def _depthwise(model: ModelProto) -> int:
    inside = {t.name: t.dims[1] for t in tensors(model) if len(t.dims) > 1}
    return sum(
        node.op_type == "Conv"
        and attribute_of(node, "group", 1) > 1
        and inside.get(node.input[1], 1) == 1
        for node in all_nodes(model)
    )


def _is_huge(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT or is_external(tensor):
        return False
    if prod(tensor.dims) > FEW:
        return False
    array = np.abs(onnx.numpy_helper.to_array(tensor))
    return bool(array.max(initial=0) > HUGE)


_FLOAT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
_NO_NUMBERS = frozenset({TensorProto.UNDEFINED, TensorProto.STRING})
_NARROW_FLOATS = frozenset(
    {
        TensorProto.BFLOAT16,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
        TensorProto.INT4,
        TensorProto.UINT4,
    }
)


def _invalid(detail: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, detail)
