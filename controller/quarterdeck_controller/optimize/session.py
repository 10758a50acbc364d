"""Open a model in onnxruntime as a device would, and run it. Runs in a child.

What the runtime raises has no common base; it is translated here and nowhere else.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session

Array = NDArray[Any]
Feed = dict[str, Array]

PROVIDERS = ["CPUExecutionProvider"]
DEFAULT = Session()
MAX_TOLD = 400


def open_session(
    model: Path | bytes, session: Session = DEFAULT, *, quick: bool = False
) -> ort.InferenceSession:
    """Return a session as a device would open it.

    Args:
        model: A file, with its external data beside it, or the bytes of one.
        session: The options a device is told.
        quick: Skip the runtime's costly optimizations.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open it.
    """
    options = options_of(session)
    if quick:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return open_with(model, options)


def options_of(session: Session) -> ort.SessionOptions:
    """Return the runtime's own form of ``session``, to be changed further."""
    options = ort.SessionOptions()
    session.configure(options)
    return options


def open_with(model: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """Return a session with options of one's own.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open it.
    """
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=PROVIDERS)
    except Exception as error:
        told = f"onnxruntime cannot open the model: {_short(error)}"
        raise RejectedError(Code.MODEL_INVALID, told) from error


def infer(
    session: ort.InferenceSession, names: Sequence[str] | None, feed: Mapping[str, Any]
) -> list[Any]:
    """Return the outputs called ``names``, or all of them, for one feed.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime gives up.
    """
    try:
        return list(session.run(names, feed))
    except Exception as error:
        told = f"onnxruntime cannot run the model: {_short(error)}"
        raise RejectedError(Code.MODEL_INVALID, told) from error


def tensor_outputs(session: ort.InferenceSession) -> tuple[str, ...]:
    """Return the outputs that are tensors of numbers, in the model's order.

    Sequences, maps, optional values and strings cannot be judged and are left out.
    """
    return tuple(
        output.name
        for output in session.get_outputs()
        if output.type.startswith("tensor(") and output.type != "tensor(string)"
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_TOLD]


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
