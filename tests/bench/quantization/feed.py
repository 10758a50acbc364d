"""Stored samples as a model takes them, one at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tests.bench.quantization.task import Array


class Input(Protocol):
    """An input of a session."""

    name: str
    shape: list[object]


def sample(
    data: Mapping[str, Array], inputs: Sequence[Input], row: int
) -> dict[str, Array]:
    """Return one sample as a batch of one.

    An array with one dimension more than the input holds whole tensors, else rows of
    the input's first dimension.
    """
    return {one.name: _shaped(data[one.name], len(one.shape), row) for one in inputs}


def read(path: Path) -> dict[str, Array]:
    """Return the arrays of a ``.npz`` file."""
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def _shaped(array: Array, rank: int, row: int) -> Array:
    whole = array.ndim == rank + 1
    return np.array(array[row] if whole else array[row : row + 1])
