"""Run a graph on stored samples and reduce what flows through it, as a stream.

Memory is flat in the number of samples: one batch of the tensors asked for.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.repair.channels import Lane
from quarterdeck_controller.optimize.repair.graph import Array
from quarterdeck_controller.optimize.session import open_session

LARGE_BYTES = 1_000_000_000
"""A graph past this size goes to the runtime by way of a file: no message holds it."""
SAMPLES = 32
BATCH = 8


def open_graph(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a session of a graph in memory, without costly optimizations."""
    if model.ByteSize() <= LARGE_BYTES:
        return open_session(model.SerializeToString(), quick=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        save_graph(model, path)
        return open_session(path, quick=True)


def save_graph(model: onnx.ModelProto, path: Path, *, large: int = LARGE_BYTES) -> None:
    """Write a graph, the same bytes for the same graph.

    Args:
        model: It is not changed.
        path: Weights are in ``path`` with ``.data`` at the end when it is large.
        large: Bytes past which it is.
    """
    if model.ByteSize() <= large:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    place = f"{path.name}.data"
    (path.parent / place).unlink(missing_ok=True)
    onnx.save(copy, path, save_as_external_data=True, location=place)


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy that gives the tensors called ``names``, all of float."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        copy.graph.output.append(value)
    return copy


def spaced(count: int, most: int) -> tuple[int, ...]:
    """Return at most ``most`` rows of ``count``, evenly spaced."""
    return tuple(
        sorted({at * count // min(count, most) for at in range(min(count, most))})
    )


def tensors(
    model: onnx.ModelProto,
    names: Sequence[str],
    stored: Stored,
    *,
    batch: int,
    rows: Sequence[int],
) -> Iterator[dict[str, Array]]:
    """Yield the tensors called ``names`` for every batch of samples."""
    if not names:
        return
    session = open_graph(with_outputs(model, names))
    for feed in stored.batches(min(batch, BATCH), rows):
        found = session.run(list(names), feed)
        yield dict(zip(names, found, strict=True))


def channel_peaks(
    model: onnx.ModelProto,
    lanes: Mapping[str, Lane],
    stored: Stored,
    *,
    batch: int,
    rows: Sequence[int],
) -> dict[str, Array]:
    """Return the largest magnitude of each channel of the tensors in ``lanes``."""
    peaks = {name: np.zeros(len(lane.ids)) for name, lane in lanes.items()}
    for found in tensors(model, list(lanes), stored, batch=batch, rows=rows):
        for name, array in found.items():
            if array.size:
                top = _by_channel(array, lanes[name].axis).max(axis=1)
                peaks[name] = np.maximum(peaks[name], top)
    return peaks


def _by_channel(array: Array, axis: int) -> Array:
    moved = np.moveaxis(np.abs(array), axis, 0)
    return moved.reshape(len(moved), -1)
