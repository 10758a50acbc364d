"""Bring a model to an operator set that per-channel scales and our rewrites know.

The converter that comes with onnx is tried first; it knows every operator, but gives up
on some graphs and does not go into subgraphs. Then the few operators whose form has
changed since opset 11 are rewritten here, which leaves everything else as it is.
"""

import numpy as np
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    helper,
    numpy_helper,
    version_converter,
)

from quarterdeck_controller.optimize.intake.graph import graphs, opset_of, subgraphs

TARGET = 17
REWRITE_FROM = 11


def convert(model: ModelProto) -> ModelProto:
    """Return the model in opset 17, made by onnx's converter."""
    return version_converter.convert_version(model, TARGET)


def has_subgraphs(model: ModelProto) -> bool:
    """Return whether the model has control flow, where the converter does not go."""
    return sum(1 for _ in graphs(model.graph)) > 1


def restamp(model: ModelProto) -> ModelProto:
    """Return the model in opset 17, made by rewriting what has changed.

    Raises:
        ValueError: It is older than opset 11, where too much has changed, or holds an
            operator that has no successor.
    """
    before = opset_of(model)
    if before < REWRITE_FROM:
        raise ValueError(f"opset {before} is too old to rewrite")
    for graph in graphs(model.graph):
        for number, node in enumerate(graph.node):
            _rewrite(graph, node, number, before)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = TARGET
    return model


def _rewrite(graph: GraphProto, node: NodeProto, number: int, before: int) -> None:
    if node.domain not in ("", "ai.onnx") or any(True for _ in subgraphs(node)):
        return
    if before < AXES_AS_INPUT and node.op_type in _MOVED:
        _move_to_input(graph, node, number, _MOVED[node.op_type])
    if before < AXES_AS_INPUT and node.op_type in _FLATTENING:
        _keep_flattening(node)


AXES_AS_INPUT = 13
_MOVED = {"Squeeze": "axes", "Unsqueeze": "axes", "ReduceSum": "axes", "Split": "split"}
_FLATTENING = frozenset({"Softmax", "LogSoftmax", "Hardmax"})


def _move_to_input(graph: GraphProto, node: NodeProto, number: int, name: str) -> None:
    value = next((list(a.ints) for a in node.attribute if a.name == name), None)
    if value is None:
        return
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    constant = f"{node.output[0]}/{name}/{number}"
    array = np.asarray(value, np.int64)
    graph.initializer.append(numpy_helper.from_array(array, constant))
    node.input.append(constant)


def _keep_flattening(node: NodeProto) -> None:
    """Allow only the last axis, for which old and new definitions agree."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", axis))


def infer_shapes(model: ModelProto) -> ModelProto:
    """Return the model with the shapes of its inner tensors, as far as they follow."""
    return onnx.shape_inference.infer_shapes(model, data_prop=True)
