"""A quantized model whose int8 products saturate on kernels that add pairs in 16 bits.

Two convolutions over positive activations, large weights: 255 * 127 * 2 does not fit
into 16 bits. Written by hand in the QDQ format, so that it depends on no builder.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.data.stored import Array, Writer

Weights = Literal["s8", "u8", "s7"]
"""Signed, unsigned, and signed with seven bits (``reduce_range``)."""

CHANNELS, LENGTH = 16, 24
IR_VERSION = 10
X_RANGE, R_RANGE, Y_RANGE = (0.0, 1.0), (0.0, 26.0), (-800.0, 800.0)
"""Of the input, behind the Relu, and of the output; measured on the samples."""


def positive_samples(count: int, seed: int = 0) -> Array:
    """Return activations as they come after a Relu, most of them large."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.4, 1, (count, CHANNELS, LENGTH)).astype(np.float32)


def store_samples(folder: Path, samples: Array) -> Path:
    """Write the samples as steps take them."""
    with Writer(folder) as writer:
        writer.add({"x": samples})
    return folder


def float_model(path: Path) -> Path:
    """Write the float model; its weights are the same each time."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], pads=[1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"], pads=[1, 1]),
    ]
    return _save(path, nodes, {f"w{n}": w for n, w in enumerate(_weights())})


def quantized_model(path: Path, weights: Weights) -> Path:
    """Write the model with unsigned activations and such weights."""
    first, second = _weights()
    constants: dict[str, Array] = {}
    nodes = [
        *_activation(constants, "x", "x_f", *X_RANGE),
        *_weight(constants, "w0", first, weights),
        helper.make_node("Conv", ["x_f", "w0_f"], ["h"], pads=[1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        *_activation(constants, "r", "r_f", *R_RANGE),
        *_weight(constants, "w1", second, weights),
        helper.make_node("Conv", ["r_f", "w1_f"], ["c"], pads=[1, 1]),
        *_activation(constants, "c", "y", *Y_RANGE),
    ]
    return _save(path, nodes, constants)


def _weights() -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    shape = (CHANNELS, CHANNELS, 3)
    first = rng.uniform(0.3, 1, shape)
    second = rng.uniform(0.3, 1, shape) * rng.choice([-1, 1], (CHANNELS, 1, 1))
    return first.astype(np.float32), second.astype(np.float32)


def _activation(
    constants: dict[str, Array], name: str, out: str, low: float, high: float
) -> list[onnx.NodeProto]:
    scale = (high - low) / 255
    constants[f"{name}_s"] = np.array(scale, np.float32)
    constants[f"{name}_z"] = np.array(round(-low / scale), np.uint8)
    said = [f"{name}_s", f"{name}_z"]
    return [
        helper.make_node("QuantizeLinear", [name, *said], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", *said], [out]),
    ]


def _weight(
    constants: dict[str, Array], name: str, values: Array, kind: Weights
) -> list[onnx.NodeProto]:
    largest, zero = (63 if kind == "s7" else 127), (128 if kind == "u8" else 0)
    scale = float(np.abs(values).max()) / largest
    integers = np.rint(values / scale) + zero
    dtype = np.uint8 if kind == "u8" else np.int8
    constants[f"{name}_q"] = integers.astype(dtype)
    constants[f"{name}_s"] = np.array(scale, np.float32)
    constants[f"{name}_z"] = np.array(zero, dtype)
    inputs = [f"{name}_q", f"{name}_s", f"{name}_z"]
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}_f"])]


def _save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Array]) -> Path:
    shape: list[str | int | None] = ["n", CHANNELS, LENGTH]
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=IR_VERSION
    )
    onnx.save(model, path)
    return path
