"""Make a variant of a prepared model by a recipe. Runs in a child.

The runtime's quantization module is used as a library of parts, never with its
defaults: what is quantized, from which ranges and by which types is said here.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode
from onnxruntime.transformers.float16 import convert_float_to_float16

from quarterdeck_controller.optimize.quantize.calibrate import Spread, observe, ranges
from quarterdeck_controller.optimize.quantize.shrink import shrink
from quarterdeck_controller.optimize.recipe import Kind, Recipe, Scope
from quarterdeck_controller.optimize.session import batches, open_samples
from quarterdeck_controller.optimize.steps import BuildRequest, Built
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

HEAVY = ("Conv", "MatMul", "Gemm")
FUSED = ("Relu", "Clip")
"""Activations that the runtime folds into the operator before them."""

SCOPES: Mapping[Scope, tuple[str, ...]] = MappingProxyType(
    {
        "heavy": (*HEAVY, *FUSED),
        "elementwise": (*HEAVY, *FUSED, "Add", "Mul"),
    }
)
DYNAMIC = ("MatMul", "Gemm")
"""Not Conv, whose dynamic kernel is slower than float, and not LSTM, which breaks."""

TYPES: Mapping[str, QuantType] = MappingProxyType(
    {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
)
TOO_LARGE = 1e5
"""A tensor past this magnitude is a mask, not a signal: eight bits over such a range
leave nothing of what lies near zero."""

Made = tuple[onnx.ModelProto, int, tuple[str, ...]]


def build(request: BuildRequest) -> Built:
    """Write the variant to ``request.out``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the recipe changes nothing in this model.
    """
    logging.getLogger().setLevel(logging.ERROR)
    made, count, notes = BUILDERS[request.recipe.kind](request)
    if not count:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"{request.recipe.name} finds nothing to quantize in this model",
        )
    _give_first(made.graph, request.output)
    data = shrink(made).SerializeToString(deterministic=True)
    request.out.write_bytes(data)
    return Built(bytes=len(data), quantized=count, notes=notes)


def _static(request: BuildRequest) -> Made:
    recipe = request.recipe
    model = onnx.load(request.model)
    operators = SCOPES[recipe.scope]
    names = _activations(model, operators)
    if not names:
        return model, 0, ()
    samples = open_samples(request.calibration, request.inputs)
    spreads = observe(model, names, list(batches(samples, request.batch)))
    masks = _masks(model, spreads)
    unknown = _unknown(model, operators, spreads)
    weights, activations = _types(recipe)
    quantizer = QDQQuantizer(
        model,
        recipe.per_channel,
        recipe.reduce_range,
        weights,
        activations,
        TensorsData(CalibrationMethod.MinMax, ranges(spreads, recipe.calibration)),
        [],
        [*masks, *unknown],
        operators,
        {},
    )
    quantizer.quantize_model()
    made = quantizer.model.model
    notes = [f"{name} stays in float: it touches a mask" for name in masks]
    notes += [f"{name} stays in float: its type is not known" for name in unknown]
    return made, _count(made, "QuantizeLinear"), tuple(notes)


def _dynamic(request: BuildRequest) -> Made:
    recipe = request.recipe
    weights, _ = _types(recipe)
    quantizer = ONNXQuantizer(
        onnx.load(request.model),
        recipe.per_channel,
        recipe.reduce_range,
        QuantizationMode.IntegerOps,
        static=False,
        weight_qType=weights,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=DYNAMIC,
        extra_options={"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    made = quantizer.model.model
    return made, _count(made, "MatMulInteger"), ()


def _half(request: BuildRequest) -> Made:
    made = convert_float_to_float16(onnx.load(request.model), keep_io_types=True)
    halves = sum(t.data_type == TensorProto.FLOAT16 for t in made.graph.initializer)
    return made, halves, ()


BUILDERS: Mapping[Kind, Callable[[BuildRequest], Made]] = MappingProxyType(
    {"static": _static, "dynamic": _dynamic, "fp16": _half}
)


def _give_first(graph: onnx.GraphProto, output: str) -> None:
    ordered = sorted(graph.output, key=lambda value: value.name != output)
    del graph.output[:]
    graph.output.extend(ordered)


def _types(recipe: Recipe) -> tuple[QuantType, QuantType]:
    """Return the types of weights and activations."""
    return TYPES[recipe.scheme[2:]], TYPES[recipe.scheme[:2]]


def _count(model: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


def _activations(model: onnx.ModelProto, operators: tuple[str, ...]) -> list[str]:
    """Return the float tensors that flow in and out of the operators."""
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    floats = {
        value.name
        for value in values
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    constants = {tensor.name for tensor in graph.initializer}
    found = dict.fromkeys(_touched(graph, operators))
    return [name for name in found if name in floats and name not in constants]


def _touched(graph: onnx.GraphProto, operators: tuple[str, ...]) -> Iterator[str]:
    for node in graph.node:
        if node.op_type in operators:
            yield from (name for name in (*node.input, *node.output) if name)


def _unknown(
    model: onnx.ModelProto, operators: tuple[str, ...], spreads: Mapping[str, Spread]
) -> list[str]:
    """Return the nodes that touch a tensor of which nothing was seen."""
    known = {*spreads, "", *(tensor.name for tensor in model.graph.initializer)}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in operators and not {*node.input, *node.output} <= known
    ]


def _masks(model: onnx.ModelProto, spreads: Mapping[str, Spread]) -> list[str]:
    """Return the nodes that touch a tensor too wide for eight bits."""
    wide = {name for name, spread in spreads.items() if not spread.largest <= TOO_LARGE}
    return [
        node.name
        for node in model.graph.node
        if wide & {*node.input, *node.output} and node.name
    ]
