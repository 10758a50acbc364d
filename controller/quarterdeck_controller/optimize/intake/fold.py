"""Compute what is constant, and let the runtime fuse what is always fused.

Folding must not swell the file: a mask or a range that a few bytes describe can be
hundreds of megabytes when written out. What would grow by more than a little stays as
it is.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.intake.graph import (
    RANDOM,
    graphs,
    size_of,
    subgraphs,
    tensors,
)
from quarterdeck_controller.optimize.session import DEFAULT, open_with, options_of

GROWTH = 1 << 20
"""A folded constant may be this much larger than what it is made of, bytes."""
SWELLING = frozenset({"Expand", "Tile", "ConstantOfShape", "Range", "OneHot", "Pad"})
"""Make much out of little; their results may not outgrow their inputs by far."""
KEPT = RANDOM | {"QuantizeLinear", "DequantizeLinear", "Dropout", "Resize", "Loop"}
FUSED_BY_RUNTIME = ["ConstantSharing"]


def fold_constants(model: ModelProto) -> ModelProto:
    """Replace nodes of constants by what they give, as long as the file stays small."""
    for graph in graphs(model.graph):
        _fold_graph(model, graph)
    return model


def _fold_graph(model: ModelProto, graph: GraphProto) -> None:
    known = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        made = None
        if outputs.isdisjoint(node.output) and _is_foldable(node, known):
            made = _compute(model, node, [known[name] for name in node.input if name])
        if made is None:
            kept.append(node)
            continue
        for tensor in made:
            known[tensor.name] = tensor
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _is_foldable(node: NodeProto, known: dict[str, TensorProto]) -> bool:
    if node.op_type in KEPT or node.domain not in ("", "ai.onnx"):
        return False
    if any(True for _ in subgraphs(node)) or node.op_type == "Constant":
        return False
    if not node.input and node.op_type not in SWELLING:
        return False
    inputs = [known.get(name) for name in node.input if name]
    return all(
        one is not None and one.data_location != TensorProto.EXTERNAL for one in inputs
    ) and not _swells(node, [one for one in inputs if one is not None])


def _swells(node: NodeProto, inputs: list[TensorProto]) -> bool:
    """Return whether the result would be much larger than its inputs, unmade."""
    if node.op_type == "Range":
        start, limit, step = (float(numpy_helper.to_array(one)) for one in inputs)
        return step == 0 or (limit - start) / step * 8 > GROWTH
    if node.op_type in ("ConstantOfShape", "Expand"):
        shape = numpy_helper.to_array(inputs[-1]).astype(np.float64)
        return bool(np.prod(np.abs(shape)) * 8 > GROWTH + 2 * size_of(inputs[0]))
    if node.op_type == "Tile":
        repeats = numpy_helper.to_array(inputs[1]).astype(np.float64)
        return bool(np.prod(repeats) * size_of(inputs[0]) > GROWTH + size_of(inputs[0]))
    if node.op_type == "OneHot":
        return size_of(inputs[0]) * float(numpy_helper.to_array(inputs[1])) > GROWTH
    return False


def _compute(
    model: ModelProto, node: NodeProto, inputs: list[TensorProto]
) -> list[TensorProto] | None:
    unique = list({tensor.name: tensor for tensor in inputs}.values())
    names = [name for name in node.output if name]
    graph = helper.make_graph(
        [node], "constant", [], [helper.make_empty_tensor_value_info(n) for n in names]
    )
    graph.initializer.extend(unique)
    small = helper.make_model(graph, opset_imports=model.opset_import)
    small.ir_version = model.ir_version
    options = options_of(DEFAULT)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    values = open_with(small.SerializeToString(), options).run(names, {})
    arrays = [np.asarray(value) for value in values]
    before = sum(size_of(tensor) for tensor in inputs)
    if sum(array.nbytes for array in arrays) > before + GROWTH:
        return None
    if any(array.dtype.kind in "OUS" for array in arrays):
        return None
    return [
        numpy_helper.from_array(array, name)
        for array, name in zip(arrays, names, strict=True)
    ]


def fuse(model: ModelProto) -> ModelProto:
    """Return the model after the runtime's own basic optimization.

    It folds batch norms, joins MatMul and Add, and drops what does nothing; whatever a
    later session would do before it looks for integers.
    """
    before = _bytes(model)
    found = _optimize(model, FUSED_BY_RUNTIME)
    if _bytes(found) > before + before // 20 + GROWTH:
        found = _optimize(model, [*FUSED_BY_RUNTIME, "ConstantFolding"])
    return found


def _optimize(model: ModelProto, without: list[str]) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "fused.onnx"
        options = options_of(DEFAULT)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(out)
        ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=without,
        )
        return onnx.load(out)


def _bytes(model: ModelProto) -> int:
    return sum(size_of(tensor) for tensor in tensors(model))
