"""What an optimization works with: where samples are, or the samples themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LABELS = "labels"
GROUPS = "groups"
INPUT_PREFIX = "input:"
"""Goes before the name of a model's input that is itself called labels or groups."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples in memory.

    Attributes:
        inputs: One array per model input, samples first. A model with a single input
            takes a single array of any name.
        labels: One entry per sample: a class, a sequence, a target, a text.
        groups: One number or name per sample: those of one group (a person, a
            recording, a machine) are never split between selection and test.
    """

    inputs: Mapping[str, Array]
    labels: Array | None = None
    groups: Array | None = None

    def __len__(self) -> int:
        return min((len(array) for array in self.inputs.values()), default=0)


Given = str | Path | Samples
"""A file, a folder, a Python entry point (``data.load``), or samples in memory."""


@dataclass(frozen=True, slots=True)
class Data:
    """What an optimization works with.

    Ranges come from one, the verdict from the other: the two must not share samples.
    """

    calibration: Given
    evaluation: Given


def save(samples: Samples, path: Path) -> Path:
    """Write ``samples`` as the ``.npz`` file that ``data.load`` reads; return it."""
    arrays = {
        f"{INPUT_PREFIX}{name}" if name in {LABELS, GROUPS} else name: array
        for name, array in samples.inputs.items()
    }
    if samples.labels is not None:
        arrays[LABELS] = samples.labels
    if samples.groups is not None:
        arrays[GROUPS] = samples.groups
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path
