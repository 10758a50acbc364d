"""Run one model, quantized or not, on samples and say how it does."""

import tempfile
from pathlib import Path

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.data.samples import Given, Samples, save
from quarterdeck_controller.optimize.evaluation import ClassScore, Interval, Latency
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.search import ready as at
from quarterdeck_shared.session import Session


class Result(steps.Record):
    """How one model did."""

    metric: str
    unit: str
    samples: int
    score: float
    ci95: Interval
    classes: tuple[ClassScore, ...]
    bytes: int
    latency: Latency
    peak_memory_mb: float
    load_ms: float
    notes: tuple[str, ...]


def evaluate_model(
    model: Path, given: Given, *, metric: str = "", bounds: Bounds | None = None
) -> Result:
    """Return how good ``model`` is on samples, its latency and memory.

    Args:
        model: Any ONNX model.
        given: Samples, with labels unless the metric needs none.
        metric: By which; empty is the one that fits the labels.
        bounds: Limits of each step.

    Raises:
        RejectedError: ``MODEL_INVALID`` or ``DATA_INVALID``.
    """
    with tempfile.TemporaryDirectory(prefix="quarterdeck-") as name:
        folder = Path(name)
        sandbox = Sandbox(folder / "steps", bounds or Bounds())
        source = str(given)
        if isinstance(given, Samples):
            source = str(save(given, folder / "samples.npz"))
        try:
            return _evaluate(sandbox, folder, model, source, metric)
        finally:
            sandbox.close()


def _evaluate(
    sandbox: Sandbox, folder: Path, model: Path, given: str, metric: str
) -> Result:
    source = at.inspect(sandbox, model, quantized=True)
    samples = at.load(sandbox, given, source.inputs, folder / "samples")
    score = steps.ScoreRequest(
        model=model.absolute(),
        out=folder / "scored",
        samples=samples.folder,
        session=Session(),
        batch=1,
        rows=tuple(range(samples.loaded.count)),
        metric=metric,
        output=source.score_output,
        labels=samples.labels,
    )
    scored = sandbox.run("score", score, steps.Scored)
    measure = steps.MeasureRequest(
        model=model.absolute(),
        reference=None,
        samples=samples.folder,
        session=Session(),
    )
    measured = sandbox.run("measure", measure, steps.Measured)
    return Result(
        metric=scored.metric,
        unit=scored.unit,
        samples=scored.samples,
        score=scored.score,
        ci95=scored.ci95,
        classes=tuple(ClassScore(**one.model_dump()) for one in scored.classes),
        bytes=source.bytes,
        latency=Latency(**measured.times.model_dump()),
        peak_memory_mb=measured.peak_memory_mb,
        load_ms=measured.load_ms,
        notes=(*samples.loaded.notes, *scored.notes),
    )
