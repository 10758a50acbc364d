"""Spoil a float model on purpose, each time in another way. Same bytes every time."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Model = onnx.ModelProto
LEAST = 64
"""Elements of a tensor that counts as weights."""


def _destroyed(model: Model) -> None:
    """Shuffle the weights of every operator."""
    rng = np.random.default_rng(0)
    for weights in _weights(model):
        flat = numpy_helper.to_array(weights).ravel()
        mixed = rng.permutation(flat).reshape(tuple(weights.dims))
        weights.CopyFrom(numpy_helper.from_array(mixed, weights.name))


def _noisy(model: Model) -> None:
    """Add noise of half its size to every weight."""
    rng = np.random.default_rng(0)
    for weights in _weights(model):
        held = numpy_helper.to_array(weights)
        noise = rng.normal(0, 0.5, held.shape).astype(np.float32)
        spoilt = (held * (1 + noise)).astype(np.float32)
        weights.CopyFrom(numpy_helper.from_array(spoilt, weights.name))


def _not_a_number(model: Model) -> None:
    """Make one weight NaN."""
    weights = _weights(model)[0]
    held = numpy_helper.to_array(weights).copy()
    held.flat[0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(held, weights.name))


def _reversed(model: Model) -> None:
    """Give the classes in the opposite order."""
    name = model.graph.output[0].name
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    order = np.arange(classes - 1, -1, -1)
    model.graph.initializer.append(numpy_helper.from_array(order, "spoilt_order"))
    _after(model, name, "Gather", "spoilt_order", axis=1)


def _constant(model: Model) -> None:
    """Answer the same whatever is asked."""
    zero = np.zeros(1, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(zero, "spoilt_zero"))
    name = model.graph.output[0].name
    _after(model, name, "Mul", "spoilt_zero")


def _slow(model: Model) -> None:
    """Multiply large matrices that change nothing."""
    graph, asked = model.graph, model.graph.input[0].name
    zero = np.zeros((1, 1), np.float32)
    ones = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.001])
    size = np.array([400, 400], np.int64)
    graph.initializer.append(numpy_helper.from_array(zero, "spoilt_zero"))
    graph.initializer.append(numpy_helper.from_array(size, "spoilt_size"))
    nodes = [
        helper.make_node("ReduceMax", [asked], ["spoilt_max"], keepdims=0),
        helper.make_node("ConstantOfShape", ["spoilt_size"], ["spoilt_1"], value=ones),
        helper.make_node("Add", ["spoilt_1", "spoilt_max"], ["spoilt_a"]),
        helper.make_node("MatMul", ["spoilt_a", "spoilt_a"], ["spoilt_b"]),
        helper.make_node("MatMul", ["spoilt_b", "spoilt_a"], ["spoilt_c"]),
        helper.make_node("ReduceMean", ["spoilt_c"], ["spoilt_mean"], keepdims=0),
        helper.make_node("Mul", ["spoilt_mean", "spoilt_zero"], ["spoilt_nothing"]),
    ]
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    _after(model, graph.output[0].name, "Add", "spoilt_nothing")


def _fat(model: Model) -> None:
    """Carry weights that nobody needs."""
    size = max(100_000, sum(len(one.raw_data) for one in _weights(model)) // 4)
    ballast = np.random.default_rng(0).normal(size=size).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(ballast, "spoilt_ballast"))


Spoil = Callable[[Model], None]
SPOILS: MappingProxyType[str, Spoil] = MappingProxyType(
    {
        "destroyed": _destroyed,
        "noisy": _noisy,
        "not a number": _not_a_number,
        "classes reversed": _reversed,
        "constant": _constant,
        "slow": _slow,
        "fat": _fat,
    }
)


def spoilt(how: str, source: Path, out: Path) -> None:
    """Write the model at ``source``, spoilt, to ``out``; ``truncated`` is one way."""
    if how == "truncated":
        data = source.read_bytes()
        out.write_bytes(data[: len(data) // 2])
        return
    model = onnx.load(source)
    SPOILS[how](model)
    onnx.save(model, out)


WAYS = (*SPOILS, "truncated")


def _weights(model: Model) -> list[TensorProto]:
    return [
        one
        for one in model.graph.initializer
        if one.data_type == TensorProto.FLOAT and np.prod(one.dims) >= LEAST
    ]


def _after(
    model: Model, output: str, operator: str, other: str, axis: int | None = None
) -> None:
    """Put an operator with another input after an output, which keeps its name."""
    before = f"{output}_spoilt"
    for node in model.graph.node:
        for at, name in enumerate(node.output):
            if name == output:
                node.output[at] = before
        for at, name in enumerate(node.input):
            if name == output:
                node.input[at] = before
    model.graph.node.append(
        helper.make_node(operator, [before, other], [output], name="spoilt", axis=axis)
    )
