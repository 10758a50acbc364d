"""Fold batch norms into the weights before them.

The runtime does so for convolutions alone; here also for transposed ones and for Gemm.
A batch norm left in float between integers costs a pair of conversions and accuracy.
The arithmetic is that of Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", section 3.2, made in double precision.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    numpy_helper,
)

from quarterdeck_controller.optimize.intake.external import is_external
from quarterdeck_controller.optimize.intake.graph import (
    attribute_of,
    graphs,
    replace,
    subgraphs,
)
from quarterdeck_controller.optimize.intake.kinds import CONVOLUTIONS

Array = NDArray[Any]
EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class _Norm:
    """y = scale * x + shift, for each channel."""

    scale: Array
    shift: Array


def fold_norms(model: ModelProto) -> ModelProto:
    """Return the model without the batch norms that weights can take in."""
    for graph in graphs(model.graph):
        constants = {tensor.name: tensor for tensor in graph.initializer}
        makers = {name: node for node in graph.node for name in node.output}
        readers = _count_readers(graph)
        for norm in list(graph.node):
            maker = makers.get(norm.input[0]) if _is_norm(norm) else None
            if maker is None or readers[norm.input[0]] != 1:
                continue
            if _take_in(graph, maker, norm, constants):
                maker.output[0] = norm.output[0]
                makers[norm.output[0]] = maker
                graph.node.remove(norm)
    return model


def _is_norm(node: NodeProto) -> bool:
    return (
        node.op_type == "BatchNormalization"
        and len([name for name in node.output if name]) == 1
        and not attribute_of(node, "training_mode", 0)
    )


def _count_readers(graph: GraphProto) -> Counter[str]:
    readers = Counter(value.name for value in graph.output)
    for node in graph.node:
        readers.update(node.input)
        for _, inner in subgraphs(node):
            for deep in graphs(inner):
                readers.update(name for one in deep.node for name in one.input)
                readers.update(value.name for value in deep.output)
    return readers


def _take_in(
    graph: GraphProto,
    maker: NodeProto,
    norm: NodeProto,
    constants: dict[str, TensorProto],
) -> bool:
    if maker.op_type not in CONVOLUTIONS | {"Gemm"}:
        return False
    names = [name for name in (*maker.input[1:], *norm.input[1:]) if name]
    tensors = [constants.get(name) for name in names]
    if any(t is None or t.data_type != TensorProto.FLOAT for t in tensors):
        return False
    if any(t is not None and is_external(t) for t in tensors):
        return False
    factors = _factors(norm, constants)
    weights = numpy_helper.to_array(constants[maker.input[1]]).astype(np.float64)
    bias = np.zeros(1)
    if len(maker.input) > len("xw") and maker.input[2]:
        bias = numpy_helper.to_array(constants[maker.input[2]]).astype(np.float64)
    beta = next((a.f for a in maker.attribute if a.name == "beta"), 1.0)
    if bias.size not in (1, factors.scale.size):
        return False
    new_bias = bias.reshape(-1) * beta * factors.scale + factors.shift
    new_weights = weights * _along_channels(maker, weights, factors.scale)
    _write(graph, maker, constants, [new_weights, new_bias])
    replace(maker.attribute, [a for a in maker.attribute if a.name != "beta"])
    return True


def _factors(norm: NodeProto, constants: dict[str, TensorProto]) -> _Norm:
    scale, shift, mean, variance = (
        numpy_helper.to_array(constants[name]).astype(np.float64)
        for name in norm.input[1:]
    )
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), EPSILON)
    factor = scale / np.sqrt(variance + epsilon)
    return _Norm(factor, shift - mean * factor)


def _along_channels(maker: NodeProto, weights: Array, scale: Array) -> Array:
    """Return the factors in a shape that multiplies ``weights`` channel by channel."""
    if maker.op_type == "Conv":
        return scale.reshape(-1, *(1 for _ in weights.shape[1:]))
    if maker.op_type == "Gemm":
        return scale[:, None] if attribute_of(maker, "transB", 0) else scale[None]
    groups = attribute_of(maker, "group", 1)
    each = np.repeat(scale.reshape(groups, -1), len(weights) // groups, axis=0)
    return each.reshape(*each.shape, *(1 for _ in weights.shape[2:]))


def _write(
    graph: GraphProto,
    maker: NodeProto,
    constants: dict[str, TensorProto],
    arrays: list[Array],
) -> None:
    """Give ``maker`` weights and bias of its own: others may share the old ones."""
    names = [f"{maker.output[0]}/{what}" for what in ("weights", "bias")]
    for name, array in zip(names, arrays, strict=True):
        tensor = numpy_helper.from_array(array.astype(np.float32), name)
        graph.initializer.append(tensor)
        constants[name] = tensor
    replace(maker.input, [maker.input[0], *names])
