"""Compute what is constant, and let the runtime fuse what is always fused.

Folding must not swell the file: a mask or a range that a few bytes describe can be
hundreds of megabytes when written out. What would grow by more than a little stays as
it is.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.intake.external import is_external
from quarterdeck_controller.optimize.intake.graph import (
    replace,
    size_of,
    subgraphs,
    tensors,
)
from quarterdeck_controller.optimize.intake.kinds import RANDOM
from quarterdeck_controller.optimize.session import DEFAULT, open_with, options_of

GROWTH = 1 << 20
"""A folded constant may be this much larger than what it is made of, bytes."""
FEW_BYTES = 1024
SWELLING = frozenset({"Expand", "Tile", "ConstantOfShape", "Range", "OneHot", "Pad"})
"""Make much out of little; their results may not outgrow their inputs by far."""
KEPT = RANDOM | {"QuantizeLinear", "DequantizeLinear", "Dropout", "Resize", "Loop"}
SLACK = 1 << 14
"""Bytes that the runtime's own folding may add, besides two percent."""
NOT_WANTED = ["ConstantSharing"]
"""It renames constants, and saves nothing that shrinking does not."""


@dataclass(frozen=True, slots=True)
class _Folding:
    """What is known so far.

    Attributes:
        made: Results by what made them.
        renamed: Results that were there already, under another name.
    """

    model: ModelProto
    known: dict[str, TensorProto]
    made: dict[bytes, list[str]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


def fold_constants(model: ModelProto) -> ModelProto:
    """Replace nodes of constants by what they give, as long as the file stays small.

    What several subgraphs make of the same constants is held once.

    Args:
        model: Its constants are in the outermost graph and no two of its tensors share
            a name (``tidy.lift``).
    """
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    _fold_graph(_Folding(model, known), model.graph)
    return model


def _fold_graph(folding: _Folding, graph: GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        replace(node.input, [folding.renamed.get(name, name) for name in node.input])
        if outputs.isdisjoint(node.output) and _fold_node(folding, node):
            continue
        kept.append(node)
        for _, inner in subgraphs(node):
            _fold_graph(folding, inner)
    replace(graph.node, kept)
    for value in graph.output:
        value.name = folding.renamed.get(value.name, value.name)


def _fold_node(folding: _Folding, node: NodeProto) -> bool:
    names = [name for name in node.input if name]
    inputs = [folding.known[name] for name in names if name in folding.known]
    if len(inputs) < len(names) or not _is_foldable(node, inputs):
        return False
    same = _signature(node, inputs)
    if same not in folding.made:
        made = _compute(folding.model, node, inputs)
        if made is None:
            return False
        folding.model.graph.initializer.extend(made)
        folding.known.update({tensor.name: tensor for tensor in made})
        folding.made[same] = [tensor.name for tensor in made]
    names = [name for name in node.output if name]
    folding.renamed.update(zip(names, folding.made[same], strict=True))
    return True


def _signature(node: NodeProto, inputs: Sequence[TensorProto]) -> bytes:
    """Return what is the same for nodes that make the same.

    Constants of a few bytes are told by their content, for every subgraph has its own.
    """
    bare = NodeProto(op_type=node.op_type, attribute=node.attribute)
    bare.output.extend("." if name else "" for name in node.output)
    bare.input.extend("." if name else "" for name in node.input)
    words = [bytes(bare.SerializeToString(deterministic=True))]
    for tensor in inputs:
        if size_of(tensor) > FEW_BYTES:
            words.append(tensor.name.encode())
            continue
        array = numpy_helper.to_array(tensor)
        words.append(f"{tensor.data_type} {array.shape} ".encode() + array.tobytes())
    return b"\0".join(words)


def _is_foldable(node: NodeProto, inputs: Sequence[TensorProto]) -> bool:
    if node.op_type in KEPT or node.domain not in ("", "ai.onnx") or not inputs:
        return False
    if any(True for _ in subgraphs(node)) or any(map(is_external, inputs)):
        return False
    return not _swells(node, inputs)


def _swells(node: NodeProto, inputs: Sequence[TensorProto]) -> bool:
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
    model: ModelProto, node: NodeProto, inputs: Sequence[TensorProto]
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
    if any(array.dtype.kind not in "fiubc" for array in arrays):
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
    found = _optimize(model, NOT_WANTED)
    if _bytes(found) > before + before // 50 + SLACK:
        found = _optimize(model, [*NOT_WANTED, "ConstantFolding"])
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
