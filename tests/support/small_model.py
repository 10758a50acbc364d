"""A small model that really learned something, and the data to judge it.

Waves of one of four frequencies on three channels with noise; two convolutions of
random filters with batch norm, and a readout fitted by least squares. It is trained in
a tenth of a second, so that tests need no file.
"""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.data.samples import Array, Data, Samples
from quarterdeck_controller.optimize.profile import SHIPPED

CLASSES = 4
SHAPE = (3, 64)
CHANNELS = 128


def make_samples(seed: int, count: int = 200) -> Samples:
    """Return labelled waves."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    time = np.linspace(0, 2 * np.pi, SHAPE[1])
    phase = rng.uniform(0, 2 * np.pi, (count, SHAPE[0], 1))
    waves = np.sin((2 + 2 * labels)[:, None, None] * time + phase)
    noisy = waves + 0.8 * rng.standard_normal((count, *SHAPE))
    return Samples({"x": noisy.astype(np.float32)}, labels)


def to_calibrate() -> Samples:
    """Return samples without labels to take ranges from."""
    return Samples(make_samples(1, 64).inputs)


def to_judge() -> Samples:
    """Return other, labelled samples."""
    return make_samples(2, 400)


def make_data() -> Data:
    """Return data to calibrate and to judge with."""
    return Data(to_calibrate(), to_judge())


def make_model(path: Path, *, opset: int = 17) -> Path:
    """Write the trained model to ``path``."""
    onnx.save(trained(opset=opset), path)
    return path


def trained(*, opset: int = 17) -> onnx.ModelProto:
    """Return the trained model."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((32, SHAPE[0], 9)) * 0.3,
        "scale": rng.uniform(0.5, 1.5, 32),
        "shift": rng.standard_normal(32) * 0.1,
        "mean": rng.standard_normal(32) * 0.1,
        "var": rng.uniform(0.5, 1.5, 32),
        "w2": rng.standard_normal((CHANNELS, 32, 5)) * 0.08,
        "b2": rng.standard_normal(CHANNELS) * 0.1,
        "readout": np.zeros((CHANNELS, CLASSES)),
        "bias": np.zeros(CLASSES),
    }
    samples = make_samples(3, 800)
    assert samples.labels is not None
    session = ort.InferenceSession(
        _model(weights, opset=opset, output="features").SerializeToString()
    )
    features = np.asarray(session.run(None, dict(samples.inputs))[0], np.float64)
    weights["readout"], weights["bias"] = _fit(features, samples.labels)
    return _model(weights, opset=opset)


def lenient_profile(name: str, folder: Path) -> Path:
    """Write a shipped profile without its latency budget, which a busy machine that
    runs tests cannot be held to, and without its emulated processor, and return the
    file."""
    text = (SHIPPED / f"{name}.toml").read_text("utf-8")
    path = folder / f"{name}.toml"
    lenient, count = re.subn(r"(?m)^latency_ratio = .*$", "latency_ratio = 900", text)
    assert count == 1
    path.write_text(re.sub(r"(?m)^emulate = .*$", "", lenient), "utf-8")
    return path


def save_npz(path: Path, samples: Samples) -> Path:
    """Write samples as the command takes them."""
    arrays = dict(samples.inputs)
    if samples.labels is not None:
        arrays["labels"] = samples.labels
    np.savez(path, allow_pickle=False, **arrays)
    return path


def _fit(features: Array, labels: Array) -> tuple[Array, Array]:
    with_one = np.hstack([features, np.ones((len(features), 1))])
    wanted = 6.0 * np.eye(CLASSES)[labels]
    gram = with_one.T @ with_one + 0.01 * np.eye(with_one.shape[1])
    solution = np.linalg.solve(gram, with_one.T @ wanted)
    return solution[:-1], solution[-1]


def _model(
    weights: dict[str, Array], *, opset: int, output: str = "scores"
) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[4, 4]),
        helper.make_node(
            "BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"]
        ),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p2"]),
        helper.make_node("Flatten", ["p2"], ["features"]),
        helper.make_node("Gemm", ["features", "readout", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    kept = [
        n for n in nodes if output == "scores" or n.op_type not in ("Gemm", "Softmax")
    ]
    graph = helper.make_graph(
        kept,
        "waves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
            if any(name in node.input for node in kept)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model
