"""Small real models, and slots that hold them."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_agent.update.slots import Slots
from quarterdeck_shared.device import Requirements
from quarterdeck_shared.index import Golden, Index, Limits, cut, digest

CLASS = "gateway"
FEATURES = 4
CLASSES = 3
NEEDS = Requirements(
    isa=("x86-64",), memory_mb=64, runtime="1.17.0", provider="CPUExecutionProvider"
)
LIMITS = Limits(latency_ms=1000, memory_mb=2048)


def linear_model(favourite: int) -> bytes:
    """Return a model whose best class is ``favourite`` for small inputs."""
    weights = np.eye(FEATURES, CLASSES, dtype=np.float32)
    bias = np.zeros(CLASSES, np.float32)
    bias[favourite] = 10
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["scores"])]
    return _model(nodes, {"w": weights, "b": bias})


def endless_model() -> bytes:
    """Return a model whose first inference does not end in a lifetime."""
    i64, boolean = TensorProto.INT64, TensorProto.BOOL
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "sum"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", i64, []),
            helper.make_tensor_value_info("go", boolean, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", boolean, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["times", "yes", "x"], ["end"], body=body),
        helper.make_node("Gemm", ["end", "w"], ["scores"]),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "times": np.array(2**60, np.int64),
        "yes": np.array(1, np.bool_),
        "w": np.eye(FEATURES, CLASSES, dtype=np.float32),
    }
    return _model(nodes, constants)


def hungry_model(gib: int) -> bytes:
    """Return a model that wants ``gib`` GiB for its first inference."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "shape"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
        helper.make_node("Add", ["y", "most"], ["scores"]),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "w": np.eye(FEATURES, CLASSES, dtype=np.float32),
        "shape": np.array([gib << 28], np.int64),
    }
    return _model(nodes, constants)


def golden_vectors(favourite: int, count: int = 8) -> bytes:
    """Return the vectors that ``linear_model(favourite)`` reproduces."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    bias = np.zeros(CLASSES, np.float32)
    bias[favourite] = 10
    return npz({"input:x": x, "expected:scores": x[:, :CLASSES] + bias})


def npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return the bytes of a ``.npz`` file."""
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]  # numpy's own stub is too narrow
    return out.getvalue()


def npy(values: Sequence[float] = (0.0,) * FEATURES) -> bytes:
    """Return one sample as the bytes of a ``.npy`` file."""
    out = io.BytesIO()
    np.save(out, np.array(values, np.float32))
    return out.getvalue()


def make_index(
    files: Mapping[str, bytes],
    *,
    version: int = 1,
    limits: Limits = LIMITS,
    requires: Requirements = NEEDS,
    count: int = 8,
) -> Index:
    """Return the index of an artifact of ``files``."""
    return Index(
        model="toy",
        version=version,
        release=version,
        device_class=CLASS,
        recipe="none",
        chunk_bytes=1024,
        parts=tuple(cut(name, data, 1024) for name, data in files.items()),  # type: ignore[arg-type]  # the names are checked there
        requires=requires,
        limits=limits,
        golden=Golden(count=count, min_agreement=1, margin=0.1, max_error=0.05),
    )


def fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the parts of an artifact."""
    for name, data in files.items():
        (folder / name).write_bytes(data)


def install(
    slots: Slots,
    model: bytes,
    golden: bytes,
    *,
    version: int = 1,
    limits: Limits = LIMITS,
) -> str:
    """Make a complete slot and return its artifact."""
    files = {"model.onnx": model, "golden.npz": golden}
    index = make_index(files, version=version, limits=limits)
    artifact = digest(index.encode())
    slots.prepare()
    fill(slots.stage(artifact, index), files)
    return artifact


def _model(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[np.generic]]
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    return bytes(model.SerializeToString())
