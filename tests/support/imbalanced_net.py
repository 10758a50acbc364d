"""A small net that quantizing breaks: its bottleneck channels differ up to 64 times."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

CLASSES = 6
SIDE = 12


@dataclass(frozen=True)
class Pictures:
    """``[N, 1, SIDE, SIDE]`` of noisy bars, and which of ``CLASSES`` each is."""

    images: Array
    labels: Array


def pictures(count: int, seed: int) -> Pictures:
    """Draw bars of six directions on noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    angle = labels * np.pi / CLASSES
    shift = generator.uniform(-2, 2, count)
    away = (
        rows[None] * np.cos(angle)[:, None, None]
        + columns[None] * np.sin(angle)[:, None, None]
        - shift[:, None, None]
    )
    drawn = np.exp(-(away**2)) + generator.normal(0, 0.45, away.shape)
    return Pictures(drawn[:, None].astype(np.float32), labels)


def write_net(path: Path, *, spread: float = 64.0, seed: int = 0) -> None:
    """Write a net of random features whose last layer is fitted to the pictures.

    A convolution, a bottleneck with depthwise convolution and a residual, pooling and
    a linear layer, as MobileNetV2 has them. Channels between two of its convolutions
    are multiplied by up to ``spread`` and divided again: its function stays the same.
    """
    generator = np.random.default_rng(seed)
    weights = _features(generator, spread)
    train = pictures(600, seed + 1)
    pooled = _run(_model(weights, fitted=None), train.images)
    around = np.concatenate([pooled, np.ones((len(pooled), 1))], 1)
    hot = np.eye(CLASSES)[train.labels] * 8 - 4
    ridge = around.T @ around + 0.03 * len(around) * np.eye(around.shape[1])
    fitted = np.linalg.solve(ridge, around.T @ hot).astype(np.float32)
    onnx.save(_model(weights, fitted), path)


def _features(generator: np.random.Generator, spread: float) -> dict[str, Array]:
    def drawn(*shape: int) -> Array:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return np.asarray(generator.normal(0, scale, shape), np.float32)

    middle, wide = 16, 48
    factor = np.exp(generator.uniform(0, np.log(spread), middle)).astype(np.float32)
    weights = {
        "first": drawn(wide, 1, 5, 5),
        "down": drawn(middle, wide, 1, 1) * factor[:, None, None, None],
        "up": drawn(wide, middle, 1, 1) / factor[None, :, None, None],
        "depth": drawn(wide, 1, 3, 3),
        "out": drawn(64, wide, 1, 1),
    }
    biases = {f"{k}_b": 0.1 * generator.normal(size=len(w)) for k, w in weights.items()}
    biases["down_b"] = biases["down_b"] * factor
    return weights | {k: v.astype(np.float32) for k, v in biases.items()}


def _model(weights: dict[str, Array], fitted: Array | None) -> onnx.ModelProto:
    nodes = [
        _conv("first", "x", "a", {"pads": [2] * 4, "strides": [2, 2]}),
        helper.make_node("Clip", ["a", "nil", "six"], ["a6"], name="a6"),
        _conv("down", "a6", "b"),
        _conv("up", "b", "c"),
        helper.make_node("Clip", ["c", "nil", "six"], ["c6"], name="c6"),
        _conv("depth", "c6", "d", {"pads": [1] * 4, "group": 48}),
        helper.make_node("Clip", ["d", "nil", "six"], ["d6"], name="d6"),
        helper.make_node("Add", ["d6", "a6"], ["e"], name="e"),
        _conv("out", "e", "f"),
        helper.make_node("Relu", ["f"], ["fr"], name="fr"),
        helper.make_node("GlobalAveragePool", ["fr"], ["g"], name="g"),
        helper.make_node("Flatten", ["g"], ["flat"], name="flat"),
    ]
    constants = dict(weights) | {"nil": np.float32(0), "six": np.float32(6)}
    output = "flat"
    if fitted is not None:
        constants |= {"last": fitted[:-1], "last_b": fitted[-1]}
        gemm = helper.make_node("Gemm", ["flat", "last", "last_b"], ["z"], name="z")
        nodes += [gemm, helper.make_node("Softmax", ["z"], ["y"], name="y", axis=-1)]
        output = "y"
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(
        nodes,
        "imbalanced",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", None])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _conv(
    name: str, before: str, after: str, more: dict[str, Any] | None = None
) -> onnx.NodeProto:
    inputs = [before, name, f"{name}_b"]
    return helper.make_node("Conv", inputs, [after], name=name, **(more or {}))


def _run(model: onnx.ModelProto, images: Array) -> Array:
    session = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": images})[0])
