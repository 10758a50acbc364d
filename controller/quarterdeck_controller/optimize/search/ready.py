"""A model and data that fit each other, taken in and judged in float.

inspect -> load -> prepare -> split -> float reference -> golden vectors chosen
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.data.split import (
    Split,
    shared_note,
    shared_rows,
    split,
    thinned,
    thinned_groups,
)
from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.metric.named import (
    digest_of_files,
    labels_are_groups,
)
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_controller.optimize.search.story import Rung
from quarterdeck_controller.optimize.search.vectors import Vectors, choose_vectors
from quarterdeck_controller.optimize.search.workbench import Made, Workbench
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session

Array = NDArray[Any]
Say = Callable[[Rung, str], None]

MOST_SELECTION = 500
"""Samples that candidates are compared on, at most."""
MOST_OUTPUT_BYTES = 512 << 20
"""Of the float model's outputs, kept to compare with; fewer samples are taken where
one sample's are large."""
DEFAULT = Session()
LABELS, GROUPS = "labels.npy", "groups.npy"


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be optimized, by which data, and how it is judged.

    Attributes:
        calibration: A source that the ``load`` step reads.
        evaluation: The same; part of it chooses, the rest judges.
        metric: As the operator named it; empty is the one that fits.
        labels: Names of the classes, in the order of the scores.
    """

    model: Path
    calibration: str
    evaluation: str
    metric: str = ""
    labels: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Samples:
    """Stored samples and what belongs to them."""

    folder: Path
    loaded: steps.Loaded

    @property
    def labels(self) -> Path | None:
        """The file of labels, one entry for each sample."""
        return self.folder / LABELS if self.loaded.labels else None

    def read(self, file: str, *, there: bool) -> Array | None:
        """Return the labels or groups, None where there are none."""
        if not there:
            return None
        return np.asarray(np.load(self.folder / file, allow_pickle=False))


@dataclass(frozen=True, slots=True)
class Ready:
    """What every candidate starts from.

    Attributes:
        model: The file as it was brought: the float reference.
        prepared: The graph that recipes start from.
        nodes: What can be given a treatment.
        batch: Samples that may be run at once.
        split: Which evaluation samples choose, and which judge.
        outputs: The float model's outputs on the selection samples, stored.
        scored: Its score on them.
        vectors: What devices must reproduce, by how many a class asks for.
    """

    task: Task
    model: Path
    source: steps.Source
    prepared: Path
    nodes: tuple[steps.Node, ...]
    batch: int
    calibration: Samples
    evaluation: Samples
    split: Split
    outputs: Path
    scored: steps.Scored
    vectors: dict[int, Vectors]
    notes: tuple[str, ...]


def inspect(sandbox: Sandbox, model: Path, *, quantized: bool = False) -> steps.Source:
    """Return what the model is; ``quantized`` allows one that is quantized already.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it cannot be optimized.
    """
    request = steps.InspectRequest(model=model.absolute(), quantized=quantized)
    try:
        return sandbox.run("inspect", request, steps.Source)
    except RejectedError as error:
        raise RejectedError(error.code, f"{model}: {error.detail}") from error


def load(
    sandbox: Sandbox, source: str, inputs: tuple[steps.Tensor, ...], out: Path
) -> Samples:
    """Return the samples of ``source``, stored in ``out``.

    Raises:
        RejectedError: ``DATA_INVALID``.
    """
    request = steps.LoadRequest(source=source, out=out, inputs=inputs)
    return Samples(out, sandbox.run("load", request, steps.Loaded))


def get_ready(
    bench: Workbench,
    folder: Path,
    task: Task,
    profiles: tuple[Profile, ...],
    say: Say,
) -> Ready:
    """Return model and data, checked against each other and prepared.

    Args:
        bench: Carries out the steps.
        folder: Where the samples go.
        task: What is to be done.
        profiles: The classes, for how many golden vectors they ask.
        say: Told each rung and what came of it.

    Raises:
        RejectedError: ``DATA_INVALID`` or ``MODEL_INVALID``.
    """
    model = task.model.absolute()
    source = inspect(bench.sandbox, task.model)
    bench.cache.know(model, source.sha256)
    say("lint", f"{source.parameters:,} parameters, opset {source.opset}")
    calibration = load(
        bench.sandbox, task.calibration, source.inputs, folder / "calibration"
    )
    evaluation = load(
        bench.sandbox, task.evaluation, source.inputs, folder / "evaluation"
    )
    prepared = _prepare(bench, model, evaluation)
    batch = prepared.answer.batch
    say("prepare", _told(prepared.answer))
    parts = _split(bench, model, evaluation, task)
    outputs = run(bench, model, evaluation, parts.selection, batch=batch)
    scores = Stored.open(outputs)
    _check_finite(scores, source.score_output)
    _check_names(task.labels, scores, source.score_output)
    scored = score(
        bench,
        task,
        source.score_output,
        model,
        evaluation,
        rows=parts.selection,
        batch=batch,
    ).answer
    say("float", f"{scored.metric} {scored.score:.4f} on {scored.samples} samples")
    return Ready(
        task=task,
        model=model,
        source=source,
        prepared=prepared.path,
        nodes=prepared.answer.nodes,
        batch=batch,
        calibration=calibration,
        evaluation=evaluation,
        split=parts,
        outputs=outputs,
        scored=scored,
        vectors=_vectors(
            evaluation, scores, source, parts, seed=task.seed, profiles=profiles
        ),
        notes=(
            *source.notes,
            *prepared.answer.notes,
            *calibration.loaded.notes,
            *evaluation.loaded.notes,
            *_shared(calibration, evaluation),
            parts.note,
            *scored.notes,
        ),
    )


def _prepare(
    bench: Workbench, model: Path, evaluation: Samples
) -> Made[steps.Prepared]:
    return bench.make(
        "prepare",
        lambda out: steps.PrepareRequest(
            model=model, out=out, samples=evaluation.folder
        ),
        steps.Prepared,
        out="prepared.onnx",
    )


def _vectors(
    evaluation: Samples,
    scores: Stored,
    source: steps.Source,
    parts: Split,
    *,
    seed: int,
    profiles: Sequence[Profile],
) -> dict[int, Vectors]:
    labels = evaluation.read(LABELS, there=evaluation.loaded.labels)
    return {
        count: choose_vectors(
            Stored.open(evaluation.folder),
            scores,
            source.score_output,
            labels=labels,
            rows=parts.selection,
            count=count,
            seed=seed,
        )
        for count in {profile.golden.count for profile in profiles}
    }


def run(
    bench: Workbench,
    model: Path,
    samples: Samples,
    rows: tuple[int, ...],
    *,
    batch: int,
    session: Session = DEFAULT,
) -> Path:
    """Return the folder of what ``model`` gives for ``rows``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it does not run.
    """
    return bench.make(
        "run",
        lambda out: steps.RunRequest(
            model=model,
            out=out,
            samples=samples.folder,
            session=session,
            batch=batch,
            rows=rows,
        ),
        steps.Ran,
    ).path


def score(
    bench: Workbench,
    task: Task,
    output: str,
    model: Path,
    samples: Samples,
    *,
    rows: tuple[int, ...],
    batch: int,
    session: Session = DEFAULT,
    reference: Path | None = None,
    baselines: bool = False,
    vectors: tuple[int, ...] = (),
) -> Made[steps.Scored]:
    """Return how good ``model`` is on ``rows``.

    Args:
        bench: Carries out the steps.
        task: Names the metric.
        output: The judged output.
        model: What is judged.
        samples: The evaluation samples.
        rows: Which of them.
        batch: How many at once.
        session: How the model is opened.
        reference: The float model's outputs for the same rows; None when this is it.
        baselines: Whether to say how inputs and answers are spread.
        vectors: Samples to replay one at a time; their outputs are made.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it does not run, ``DATA_INVALID`` when
            the metric cannot judge it.
    """
    return bench.make(
        "score",
        lambda out: steps.ScoreRequest(
            model=model,
            out=out,
            samples=samples.folder,
            session=session,
            batch=batch,
            rows=rows,
            metric=task.metric,
            metric_sha256=digest_of_files(task.metric),
            output=output,
            labels=samples.labels,
            names=task.labels,
            reference=reference,
            seed=task.seed,
            baselines=baselines,
            golden=vectors,
        ),
        steps.Scored,
    )


def _split(bench: Workbench, model: Path, samples: Samples, task: Task) -> Split:
    one = run(bench, model, samples, (0,), batch=1)
    size = sum(file.stat().st_size for file in one.glob("*.bin"))
    most = max(1, MOST_OUTPUT_BYTES // max(size, 1))
    loaded = samples.loaded
    labels = samples.read(LABELS, there=loaded.labels)
    groups = samples.read(GROUPS, there=loaded.groups)
    if labels_are_groups(task.metric):
        groups = labels
    parts = split(loaded.count, labels=labels, groups=groups, seed=task.seed)
    return replace(
        parts,
        selection=_thin(parts.selection, groups, min(MOST_SELECTION, most)),
        test=_thin(parts.test, groups, 4 * most),
    )


def _thin(rows: tuple[int, ...], groups: Array | None, most: int) -> tuple[int, ...]:
    if groups is not None:
        return thinned_groups(rows, groups, most)
    return tuple(rows[number] for number in thinned(len(rows), most))


def _shared(calibration: Samples, evaluation: Samples) -> tuple[str, ...]:
    shared = shared_rows(
        Stored.open(calibration.folder), Stored.open(evaluation.folder)
    )
    note = shared_note(shared, evaluation.loaded.count)
    return () if note is None else (note,)


def _told(prepared: steps.Prepared) -> str:
    weighty = sum(1 for node in prepared.nodes if node.bytes)
    return f"still equal to the original; {weighty} operators hold weights"


def _check_finite(outputs: Stored, output: str) -> None:
    bad = [
        number
        for number, scores in enumerate(outputs.samples(output))
        if not np.isfinite(scores).all()
    ]
    if bad:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"the float model gives NaN or infinity for {len(bad)} of {len(outputs)} "
            f"samples, the first is {bad[0]}",
        )


def _check_names(names: tuple[str, ...], outputs: Stored, output: str) -> None:
    shapes = {scores.shape for scores in outputs.samples(output)}
    classes = next(iter(shapes))[-1] if len(shapes) == 1 and next(iter(shapes)) else 0
    if names and len(names) != classes:
        raise RejectedError(
            Code.DATA_INVALID,
            f"{len(names)} labels are named, the model has {classes or 'no'} classes",
        )
