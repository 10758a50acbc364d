"""Run a model on a few samples and tell how far outputs are from what they were."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize.session import (
    Feed,
    infer,
    open_session,
    tensor_outputs,
)
from quarterdeck_shared.session import Session

Array = NDArray[Any]
SMALL = 1e-3
"""Outputs that are smaller are compared as if they were this large: of a sigmoid far
below zero, float32's own rounding is a large share."""
Outputs = list[dict[str, Array]]
"""For each feed every output that is a tensor of numbers."""


def outputs_of(model: Path | bytes, feeds: Sequence[Feed]) -> Outputs:
    """Return what the model gives for ``feeds``.

    A model in a file is mapped, and its weights are not copied into the kernels' own
    layout, which would double them.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open or run it.
    """
    session = open_session(model, Session(prepack=isinstance(model, bytes)))
    names = tensor_outputs(session)
    return [
        dict(zip(names, map(np.asarray, infer(session, names, feed)), strict=True))
        for feed in feeds
    ]


def furthest(expected: Outputs, got: Outputs) -> float:
    """Return the largest relative error of any output; infinite when shapes differ."""
    return max(
        (
            difference(array, found[name]) if name in found else math.inf
            for wanted, found in zip(expected, got, strict=True)
            for name, array in wanted.items()
        ),
        default=0.0,
    )


def difference(wanted: Array, found: Array) -> float:
    """Return the root-mean-square error as a share of what was wanted.

    Infinities must be in the same places and NaN is never equal; whole numbers must be
    the same ones.
    """
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return math.inf
    if wanted.dtype.kind not in "fc":
        return 0.0 if np.array_equal(wanted, found) else math.inf
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], found[~finite]):
        return math.inf
    one, other = (array[finite].astype(np.float64) for array in (wanted, found))
    if not np.isfinite(other).all():
        return math.inf
    if not one.size:
        return 0.0
    error = math.sqrt(float(np.mean((one - other) ** 2)))
    size = math.sqrt(float(np.mean(one**2)))
    return error / max(size, SMALL)
