"""Run one model, quantized or not, on labelled samples and say how it does."""

import tempfile
from pathlib import Path

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.data.samples import (
    Data,
    Samples,
    check_label_range,
)
from quarterdeck_controller.optimize.evaluation import Interval, Latency
from quarterdeck_controller.optimize.metric import score
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.search import trial
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


class Scored(steps.Record):
    """How one model did."""

    samples: int
    score: float
    ci95: Interval
    bytes: int
    latency: Latency
    peak_memory_mb: float


def evaluate_model(
    model: Path, samples: Samples, bounds: Bounds | None = None
) -> Scored:
    """Return the accuracy of ``model`` on ``samples``, its latency and memory.

    Raises:
        RejectedError: ``MODEL_INVALID`` or ``DATA_INVALID``.
    """
    if samples.labels is None:
        raise RejectedError(
            Code.DATA_INVALID,
            f"{samples.origin} has no labels; accuracy is counted against them",
        )
    with tempfile.TemporaryDirectory(prefix="quarterdeck-") as folder:
        sandbox = Sandbox(Path(folder) / "steps", bounds or Bounds())
        try:
            return _score(sandbox, Path(folder), model, samples)
        finally:
            sandbox.close()


def _score(sandbox: Sandbox, folder: Path, model: Path, samples: Samples) -> Scored:
    source = trial.inspect(sandbox, model, quantized=True)
    ready = trial.get_ready(sandbox, folder, model, source, Data(samples, samples))
    scores, measured = trial.run_float(sandbox, ready)
    fitted = ready.data.evaluation
    check_label_range(fitted, score.classes_of(scores))
    assert fitted.labels is not None, "checked by the caller"
    count = score.right(scores, fitted.labels)
    return Scored(
        samples=len(scores),
        score=count / len(scores),
        ci95=score.wilson(count, len(scores)),
        bytes=source.bytes,
        latency=Latency(**measured.times.model_dump()),
        peak_memory_mb=measured.peak_memory_mb,
    )
