"""Nets whose channels differ so much in range that one scale for all fits none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from quarterdeck_controller.optimize.data.stored import Array, Stored, Writer

WIDTH, WIDE, SIDE, CLASSES = 16, 48, 12, 10
OUTLIERS = (3, 17)


def bottlenecks(spread: float = 8.0, *, seed: int = 0) -> onnx.ModelProto:
    """Return inverted residuals whose linear bottleneck was rescaled by channel.

    The function is that of ``spread=1``: what is multiplied where a channel is made is
    divided where it is read. Scales lie between ``1 / spread`` and ``spread``.
    """
    rng = np.random.default_rng(seed)
    by = (
        np.exp(rng.uniform(-np.log(spread), np.log(spread), WIDTH)) if spread > 1 else 1
    )
    by = np.broadcast_to(by, WIDTH).reshape(-1, 1, 1, 1)
    held = {
        "stem": _kernel(rng, (WIDTH, 3, 3, 3)) * by,
        "stem_b": rng.normal(size=WIDTH) * 0.1 * by.ravel(),
        "head": _kernel(rng, (WIDE, WIDTH, 1, 1)) / by.reshape(1, -1, 1, 1),
        "head_b": rng.normal(size=WIDE) * 0.1,
        "fc": _kernel(rng, (CLASSES, WIDE)),
        "fc_b": rng.normal(size=CLASSES) * 0.1,
        "low": np.array(0.0),
        "six": np.array(6.0),
    }
    nodes = [_conv("stem", "x", "t0", pads=1)]
    for at in range(3):
        held |= {
            f"e{at}": _kernel(rng, (WIDE, WIDTH, 1, 1)) / by.reshape(1, -1, 1, 1),
            f"e{at}_b": rng.normal(size=WIDE) * 0.1,
            f"d{at}": _kernel(rng, (WIDE, 1, 3, 3)),
            f"d{at}_b": rng.normal(size=WIDE) * 0.1,
            f"p{at}": _kernel(rng, (WIDTH, WIDE, 1, 1)) * by,
            f"p{at}_b": rng.normal(size=WIDTH) * 0.1 * by.ravel(),
        }
        nodes += [
            _conv(f"e{at}", f"t{at}", f"e{at}_o"),
            _clip(f"e{at}_o", f"e{at}_r"),
            _conv(f"d{at}", f"e{at}_r", f"d{at}_o", pads=1, group=WIDE),
            _clip(f"d{at}_o", f"d{at}_r"),
            _conv(f"p{at}", f"d{at}_r", f"p{at}_o"),
            helper.make_node("Add", [f"t{at}", f"p{at}_o"], [f"t{at + 1}"], f"add{at}"),
        ]
    nodes += [
        _conv("head", "t3", "h"),
        helper.make_node("Relu", ["h"], ["h_r"], "head_relu"),
        helper.make_node("GlobalAveragePool", ["h_r"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc", "fc_b"], ["y"], "fc_op", transB=1),
    ]
    return model_of(nodes, held, {"x": ("n", 3, SIDE, SIDE)}, {"y": ("n", CLASSES)})


def block(
    *, outlier: float = 60.0, seed: int = 0, post: bool = False
) -> onnx.ModelProto:
    """Return a transformer's feed-forward block with two outlier channels.

    Args:
        outlier: How many times wider they are, in the norm's scale.
        seed: Of the weights.
        post: The residual takes the norm's output, not its input.
    """
    rng, width = np.random.default_rng(seed), 32
    gamma = rng.uniform(0.5, 1.5, width)
    gamma[list(OUTLIERS)] *= outlier
    up = _kernel(rng, (width, 4 * width)) * 4
    up[list(OUTLIERS)] /= outlier
    held = {
        "gamma": gamma,
        "beta": rng.normal(size=width) * 0.1,
        "up": up,
        "up_b": rng.normal(size=4 * width) * 0.1,
        "down": _kernel(rng, (4 * width, width)),
        "down_b": rng.normal(size=width) * 0.1,
    }
    nodes = [
        helper.make_node(
            "LayerNormalization", ["x", "gamma", "beta"], ["n"], "norm", axis=-1
        ),
        helper.make_node("MatMul", ["n", "up"], ["u0"], "up_op"),
        helper.make_node("Add", ["u0", "up_b"], ["u1"], "up_add"),
        helper.make_node("Relu", ["u1"], ["u2"], "relu"),
        helper.make_node("MatMul", ["u2", "down"], ["w0"], "down_op"),
        helper.make_node("Add", ["w0", "down_b"], ["w1"], "down_add"),
        helper.make_node("Add", ["n" if post else "x", "w1"], ["y"], "residual"),
    ]
    shape = ("n", "length", width)
    return model_of(nodes, held, {"x": shape}, {"y": shape})


def model_of(
    nodes: Sequence[onnx.NodeProto],
    held: Mapping[str, Array],
    inputs: Mapping[str, Sequence[str | int]],
    outputs: Mapping[str, Sequence[str | int]],
) -> onnx.ModelProto:
    """Return a float model as preparation leaves it."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, s)
            for k, s in inputs.items()
        ],
        [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, s)
            for k, s in outputs.items()
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in held.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def noise(
    folder: Path, shape: Sequence[int], *, count: int = 48, seed: int = 1
) -> Stored:
    """Store samples of noise that varies slowly from value to value."""
    rng = np.random.default_rng(seed)
    with Writer(folder) as writer:
        writer.add({"x": rng.normal(size=(count, *shape)).astype(np.float32)})
    return Stored.open(folder)


def sqnr_db(expected: Array, found: Array) -> float:
    """Return signal to noise in decibels."""
    wanted = np.asarray(expected, np.float64)
    error = ((wanted - found) ** 2).sum()
    return float(10 * np.log10((wanted**2).sum() / max(error, 1e-30)))


def _kernel(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    fan = np.prod(shape[1:]) if len(shape) > 2 else shape[-1]
    kernel: Array = rng.normal(size=shape) * np.sqrt(1.5 / fan)
    return kernel


def _conv(
    name: str, given: str, made: str, *, pads: int = 0, group: int = 1
) -> onnx.NodeProto:
    names = [given, name, f"{name}_b"]
    return helper.make_node(
        "Conv", names, [made], f"{name}_op", pads=[pads] * 4, group=group
    )


def _clip(given: str, made: str) -> onnx.NodeProto:
    return helper.make_node("Clip", [given, "low", "six"], [made], f"{made}_op")
