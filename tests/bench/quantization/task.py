"""A task: a float model, data that calibrates and judges it, and what is judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench.quantization.fetch import CACHE

Array = NDArray[Any]
LABELS, GROUPS = "labels", "groups"


@dataclass(frozen=True, slots=True)
class Task:
    """What an optimizer is given, all of it files.

    Attributes:
        model: The float ONNX file, as it is found in the field.
        calibration: ``.npz`` with an array for each model input, samples first.
        evaluation: The same with ``labels`` where the truth is known, and ``groups``
            where samples belong together (lines of one recording).
        metric: As ``quarterdeck model optimize --metric`` takes it.
        judge: How the benchmark itself judges; a name of ``judge.JUDGES``.
        notes: Where it comes from and what is hard about it.
    """

    name: str
    model: Path
    calibration: Path
    evaluation: Path
    metric: str
    judge: str
    notes: str


@dataclass(frozen=True, slots=True)
class Made:
    """What a task's maker returns.

    Attributes:
        model: Bytes of the float ONNX file.
        calibration: Arrays by input, samples first.
        evaluation: The same, with labels and groups.
    """

    model: bytes
    calibration: Mapping[str, Array]
    evaluation: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a task is made; kept by name and version, so a change needs a new version."""

    name: str
    version: int
    metric: str
    judge: str
    notes: str
    make: Callable[[], Made]


def prepared(recipe: Recipe) -> Task:
    """Return the task, made now unless the cache has it.

    Raises:
        UnavailableError: Something that it is made of could not be had here.
    """
    folder = CACHE / "tasks" / f"{recipe.name}-{recipe.version}"
    model = folder / "model.onnx"
    calibration, evaluation = folder / "calibration.npz", folder / "evaluation.npz"
    if not evaluation.is_file():
        made = recipe.make()
        folder.mkdir(parents=True, exist_ok=True)
        model.write_bytes(made.model)
        _keep(made.calibration, calibration)
        _keep(made.evaluation, evaluation)
    return Task(
        recipe.name,
        model,
        calibration,
        evaluation,
        recipe.metric,
        recipe.judge,
        recipe.notes,
    )


def _keep(arrays: Mapping[str, Array], path: Path) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, **dict(arrays))
    partial.replace(path)
