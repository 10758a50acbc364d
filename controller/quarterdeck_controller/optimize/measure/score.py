"""Run a model on stored samples and judge its outputs. Runs in a child.

Outputs are kept only while they are judged: those of a text recognizer are a megabyte a
sample.
"""

import shutil
from pathlib import Path

import numpy as np

from quarterdeck_controller.optimize.data.stored import Array, Stored
from quarterdeck_controller.optimize.evaluation import Baselines
from quarterdeck_controller.optimize.measure.run import run
from quarterdeck_controller.optimize.metric.baseline import baselines
from quarterdeck_controller.optimize.metric.choose import choose_metric
from quarterdeck_controller.optimize.metric.judge import judge, paired_drop
from quarterdeck_controller.optimize.metric.metric import Outputs, outputs_of
from quarterdeck_controller.optimize.metric.score import classes_of
from quarterdeck_controller.optimize.steps import (
    GOLDEN,
    VALUES,
    ClassScored,
    RunRequest,
    Scored,
    ScoreRequest,
)


def score(request: ScoreRequest) -> Scored:
    """Return how good the model's outputs are; their values go into ``request.out``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it does not run, ``DATA_INVALID`` when
            metric, labels and outputs do not fit each other.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    folder = request.out / "outputs"
    asked = RunRequest(
        model=request.model,
        out=folder,
        samples=request.samples,
        session=request.session,
        batch=request.batch,
        rows=request.rows,
    )
    run(asked)
    if request.golden:
        one_by_one = {"out": request.out / GOLDEN, "rows": request.golden, "batch": 1}
        run(asked.model_copy(update=one_by_one))
    try:
        return _judge(request, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judge(request: ScoreRequest, folder: Path) -> Scored:
    outputs = _outputs(folder, request.output)
    reference = outputs
    if request.reference is not None:
        reference = _outputs(request.reference, request.output)
    labels = _labels(request)
    metric = choose_metric(request.metric, labels, _shape(outputs))
    found = judge(
        metric, outputs, labels, reference, seed=request.seed, names=request.names
    )
    drop, drop_ci95 = 0.0, (0.0, 0.0)
    if request.reference is not None:
        before = judge(metric, reference, labels, reference, seed=request.seed)
        drop, drop_ci95 = paired_drop(metric, before, found, seed=request.seed)
    np.save(request.out / VALUES, found.values)
    return Scored(
        metric=metric.about.name,
        unit=metric.about.unit,
        labelled=metric.about.labelled,
        score=found.score,
        ci95=found.ci95,
        drop_points=drop,
        drop_ci95=drop_ci95,
        agreement=found.agreement,
        classes=tuple(
            ClassScored(name=one.name, samples=one.samples, score=one.score)
            for one in found.per_class
        ),
        samples=len(found.values),
        broken=found.broken,
        baselines=_baselines(request, outputs) if request.baselines else None,
        notes=found.notes,
    )


def _outputs(folder: Path, first: str) -> Outputs:
    found = outputs_of(Stored.open(folder))
    return {name: found[name] for name in sorted(found, key=lambda n: n != first)}


def _baselines(request: ScoreRequest, outputs: Outputs) -> Baselines:
    judged = next(iter(outputs.values()))
    flat = isinstance(judged, np.ndarray) and judged.ndim == len(("sample", "class"))
    scores = judged if isinstance(judged, np.ndarray) and flat else None
    return baselines(
        Stored.open(request.samples),
        scores,
        None if scores is None else classes_of(scores),
        rows=request.rows,
    )


def _labels(request: ScoreRequest) -> Array | None:
    if request.labels is None:
        return None
    every = np.load(request.labels, allow_pickle=False)
    return np.asarray(every[list(request.rows)])


def _shape(outputs: Outputs) -> tuple[int, ...] | None:
    judged = next(iter(outputs.values()))
    return judged.shape if isinstance(judged, np.ndarray) else None
