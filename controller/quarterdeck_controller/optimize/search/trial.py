"""The steps that try a recipe, each carried out in the sandbox.

What comes back is data: files in the work folder and figures. Nothing is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.data import samples as samples_of
from quarterdeck_controller.optimize.data.samples import Data
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_shared.errors import RejectedError

Array = NDArray[Any]

MOST_CALIBRATION = 256
"""Samples that calibrate; more change no range that matters."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A model and data that fit each other, in a work folder.

    Attributes:
        model: The file as it was brought: the float reference.
        prepared: The graph that recipes start from.
        batch: Samples that may be run at once.
    """

    folder: Path
    model: Path
    prepared: Path
    source: steps.Source
    data: Data
    batch: int
    notes: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs."""
        return tuple(tensor.name for tensor in self.source.inputs)


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe's file, or why there is none."""

    recipe: Recipe
    path: Path
    failure: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """A variant that was run, or why it could not be.

    Attributes:
        scores: Scores of every evaluation sample.
        golden: Scores of the replayed samples, one at a time, by their row.
    """

    recipe: Recipe
    failure: str | None = None
    measured: steps.Measured | None = None
    bytes: int = 0
    scores: Array | None = None
    golden: dict[int, Array] | None = None


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


def get_ready(
    sandbox: Sandbox, folder: Path, model: Path, source: steps.Source, data: Data
) -> Ready:
    """Return model and data, checked against each other and prepared.

    Raises:
        RejectedError: ``DATA_INVALID`` or ``MODEL_INVALID``.
    """
    calibration = samples_of.fit(data.calibration, source.inputs)
    fitted = Data(
        calibration=samples_of.thin(calibration, MOST_CALIBRATION),
        evaluation=samples_of.fit(data.evaluation, source.inputs),
    )
    samples_of.store(fitted.calibration, folder / "calibration")
    samples_of.store(fitted.evaluation, folder / "evaluation")
    request = steps.PrepareRequest(
        model=model.absolute(),
        out=folder / "prepared.onnx",
        samples=folder / "evaluation",
        inputs=tuple(tensor.name for tensor in source.inputs),
    )
    prepared = sandbox.run("prepare", request, steps.Prepared)
    return Ready(
        folder=folder,
        model=request.model,
        prepared=request.out,
        source=source,
        data=fitted,
        batch=prepared.batch,
        notes=source.notes + prepared.notes + _shared(fitted),
    )


def _shared(data: Data) -> tuple[str, ...]:
    seen = samples_of.row_digests(data.evaluation)
    count = sum(row in seen for row in samples_of.row_digests(data.calibration))
    if not count:
        return ()
    told = (
        f"{count} of {len(data.calibration)} calibration samples are in the evaluation "
        "data too: the score is kinder than the field will be"
    )
    return (told,)


def build(sandbox: Sandbox, ready: Ready, recipe: Recipe) -> Variant:
    """Return the variant that ``recipe`` makes, or why it makes none."""
    path = ready.folder / f"{recipe.name}.onnx"
    request = steps.BuildRequest(
        model=ready.prepared,
        out=path,
        recipe=recipe,
        calibration=ready.folder / "calibration",
        inputs=ready.inputs,
        output=ready.source.score_output,
        batch=ready.batch,
    )
    try:
        built = sandbox.run("build", request, steps.Built)
    except RejectedError as error:
        return Variant(recipe, path, failure=error.detail)
    return Variant(recipe, path, notes=built.notes)


def run_float(sandbox: Sandbox, ready: Ready) -> tuple[Array, steps.Measured]:
    """Return the float model's scores and figures.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it does not run.
    """
    request = _request(ready, ready.model, "float", reference=None)
    measured = sandbox.run("measure", request, steps.Measured)
    return np.load(request.out / steps.SCORES, allow_pickle=False), measured


def run_variant(
    sandbox: Sandbox,
    ready: Ready,
    variant: Variant,
    golden: Sequence[int],
    threads: int,
) -> Trial:
    """Return what running ``variant`` beside the float model showed."""
    recipe = variant.recipe
    if variant.failure is not None:
        return Trial(recipe, variant.failure)
    request = _request(
        ready, variant.path, f"{recipe.name}-{threads}", reference=ready.model
    ).model_copy(update={"golden": tuple(golden), "threads": threads})
    if recipe.depends_on_batch:
        request = request.model_copy(update={"batch": 1})
    try:
        measured = sandbox.run("measure", request, steps.Measured)
    except RejectedError as error:
        return Trial(recipe, error.detail)
    vectors = np.load(request.out / steps.GOLDEN_SCORES, allow_pickle=False)
    return Trial(
        recipe,
        measured=measured,
        bytes=variant.path.stat().st_size,
        scores=np.load(request.out / steps.SCORES, allow_pickle=False),
        golden=dict(zip(golden, vectors, strict=True)),
    )


def _request(
    ready: Ready, model: Path, name: str, *, reference: Path | None
) -> steps.MeasureRequest:
    out = ready.folder / f"run-{name}"
    out.mkdir()
    return steps.MeasureRequest(
        model=model,
        out=out,
        samples=ready.folder / "evaluation",
        inputs=ready.inputs,
        output=ready.source.score_output,
        reference=reference,
        golden=(),
        batch=ready.batch,
        threads=1,
    )
