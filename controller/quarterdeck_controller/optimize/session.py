"""Open a model in onnxruntime and run samples through it. Runs in a child."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
Feed = dict[str, Array]

PROVIDERS = ["CPUExecutionProvider"]


def open_session(
    model: Path | bytes, *, threads: int = 1, quick: bool = False
) -> ort.InferenceSession:
    """Return a session as a device would open it.

    Args:
        model: A file, or the bytes of one.
        threads: Intra-op threads.
        quick: Skip the runtime's costly optimizations.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if quick:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=PROVIDERS)


def open_samples(folder: Path, inputs: Sequence[str]) -> Feed:
    """Return the stored samples, mapped: only what is run is read."""
    return {
        name: np.load(folder / f"{number}.npy", mmap_mode="r", allow_pickle=False)
        for number, name in enumerate(inputs)
    }


def count(samples: Feed) -> int:
    """Return how many samples there are."""
    return len(next(iter(samples.values())))


def batches(samples: Feed, size: int) -> Iterator[Feed]:
    """Yield all samples, ``size`` at a time."""
    for start in range(0, count(samples), size):
        yield {
            k: np.ascontiguousarray(v[start : start + size]) for k, v in samples.items()
        }


def rows(samples: Feed, chosen: Sequence[int]) -> Iterator[Feed]:
    """Yield the chosen samples one at a time."""
    for row in chosen:
        yield {k: np.ascontiguousarray(v[row : row + 1]) for k, v in samples.items()}


def scores(session: ort.InferenceSession, output: str, feeds: Iterator[Feed]) -> Array:
    """Return one output for every sample, samples first."""
    parts = [np.asarray(session.run([output], feed)[0]) for feed in feeds]
    return np.concatenate(parts)
