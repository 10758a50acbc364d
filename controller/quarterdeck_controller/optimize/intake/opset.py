"""Bring a model to an operator set that per-channel scales and our rewrites know.

The converter that comes with onnx is tried first. It has faults that are mended here:
a Resize from before opset 11 loses how it counted pixels, and a Softmax over the last
axis is wrapped in a Flatten and a Reshape that it does not need. Where it gives up, the
few operators whose form has changed since opset 11 are rewritten here, which leaves
everything else as it is.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    version_converter,
)

from quarterdeck_controller.optimize.intake.graph import (
    attribute_of,
    graphs,
    opset_of,
    replace,
    walk,
)
from quarterdeck_controller.optimize.intake.kinds import TARGET_OPSET

ConvertError = version_converter.ConvertError
REWRITE_FROM = 11
PIXELS_NAMED = 11
"""Since then a Resize says how it counts pixels."""
AXES_AS_INPUT = 13
"""Since then Softmax takes one axis, and axes are inputs."""


def convert(model: ModelProto) -> ModelProto:
    """Return the model in opset 17, made by onnx's converter."""
    before = opset_of(model)
    converted = version_converter.convert_version(model, TARGET_OPSET)
    if before < PIXELS_NAMED:
        for node in walk(converted.graph):
            if node.op_type == "Resize":
                _count_pixels_as_before(node)
    return converted


def convert_fixed(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> ModelProto:
    """Return the model in opset 17 by way of fixed shapes.

    From before opset 7 the converter asks for sizes, to tell how a node broadcasts;
    afterwards they are free again.

    Args:
        model: It is changed.
        shapes: A shape that each input can have.
    """
    ends = [ValueInfoProto() for _ in (*model.graph.input, *model.graph.output)]
    for kept, value in zip(
        ends, (*model.graph.input, *model.graph.output), strict=True
    ):
        kept.CopyFrom(value)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    model.ir_version = max(model.ir_version, 8)  # initializers need be no inputs
    converted = convert(model)
    inputs = len(model.graph.input)
    replace(converted.graph.input, ends[:inputs])
    replace(converted.graph.output, ends[inputs:])
    del converted.graph.value_info[:]
    return converted


def restamp(model: ModelProto) -> ModelProto:
    """Return the model in opset 17, made by rewriting what has changed.

    Raises:
        ValueError: It is older than opset 11, where too much has changed, or has a
            Softmax that cannot be written plainly.
    """
    before = opset_of(model)
    if before < REWRITE_FROM:
        raise ValueError(f"opset {before} is too old to rewrite")
    if before < AXES_AS_INPUT:
        ranks = _ranks(model)
        for graph in graphs(model.graph):
            for number, node in enumerate(graph.node):
                _rewrite(graph, node, number, ranks)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = TARGET_OPSET
    return model


def plain_softmax(model: ModelProto) -> ModelProto:
    """Return the model without what the converter wraps a Softmax in.

    Over the last axis old and new definitions agree, and no Flatten is needed.
    """
    ranks = _ranks(model)
    for graph in graphs(model.graph):
        makers = {name: node for node in graph.node for name in node.output}
        for softmax, flatten, reshape in _wrapped(graph, makers):
            rank = ranks.get(flatten.input[0])
            if rank is None or attribute_of(flatten, "axis", 1) != rank - 1:
                continue
            made = helper.make_node(
                softmax.op_type, [flatten.input[0]], list(reshape.output), softmax.name
            )
            made.attribute.append(helper.make_attribute("axis", -1))
            softmax.name = ""
            reshape.CopyFrom(made)  # in its place, so that the order stays
    return model


def lower_ir(model: ModelProto) -> ModelProto:
    """Return the model with the oldest IR version that its operator sets allow."""
    model.ir_version = min(
        model.ir_version,
        max(
            8,
            helper.find_min_ir_version_for(
                list(model.opset_import), ignore_unknown=True
            ),
        ),
    )
    return model


def infer_shapes(model: ModelProto) -> ModelProto:
    """Return the model with the shapes of its inner tensors, as far as they follow."""
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _count_pixels_as_before(node: NodeProto) -> None:
    told = {attribute.name for attribute in node.attribute}
    if "coordinate_transformation_mode" in told:
        return
    wanted = {
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    for name, value in wanted.items():
        if name not in told:
            node.attribute.append(helper.make_attribute(name, value))


_MOVED = {"Squeeze": "axes", "Unsqueeze": "axes", "ReduceSum": "axes", "Split": "split"}
_FLATTENING = frozenset({"Softmax", "LogSoftmax", "Hardmax"})


def _rewrite(
    graph: GraphProto, node: NodeProto, number: int, ranks: dict[str, int]
) -> None:
    if node.domain not in ("", "ai.onnx"):
        return
    if node.op_type in _MOVED:
        _move_to_input(graph, node, number, _MOVED[node.op_type])
    if node.op_type in _FLATTENING:
        _keep_last_axis(node, ranks.get(node.input[0]))


def _move_to_input(graph: GraphProto, node: NodeProto, number: int, name: str) -> None:
    value = next((list(a.ints) for a in node.attribute if a.name == name), None)
    if value is None:
        return
    replace(node.attribute, [a for a in node.attribute if a.name != name])
    constant = f"{node.output[0]}/{name}/{number}"
    array = np.asarray(value, np.int64)
    graph.initializer.append(numpy_helper.from_array(array, constant))
    node.input.append(constant)


def _keep_last_axis(node: NodeProto, rank: int | None) -> None:
    axis = attribute_of(node, "axis", 1)
    if rank is None or axis not in (-1, rank - 1):
        raise ValueError(
            f"{node.op_type} {node.name} is not over the last axis, or nothing tells"
        )
    replace(node.attribute, [helper.make_attribute("axis", -1)])


def _ranks(model: ModelProto) -> dict[str, int]:
    inferred = infer_shapes(model)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for graph in graphs(inferred.graph)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _wrapped(
    graph: GraphProto, makers: dict[str, NodeProto]
) -> Iterator[tuple[NodeProto, NodeProto, NodeProto]]:
    for reshape in graph.node:
        if reshape.op_type != "Reshape" or len(reshape.input) < len("xs"):
            continue
        softmax, shape = (makers.get(name) for name in reshape.input[:2])
        if softmax is None or shape is None or softmax.op_type not in _FLATTENING:
            continue
        flatten = makers.get(softmax.input[0])
        if flatten is None or flatten.op_type != "Flatten" or shape.op_type != "Shape":
            continue
        if attribute_of(softmax, "axis", -1) == -1 and shape.input == flatten.input:
            yield softmax, flatten, reshape
