"""Counting: who was right, who agrees, and how sure that is. Pure."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CLOSE = 0.1
"""Relative error up to which scores that are no classes still agree."""


def classes_of(scores: Array) -> int | None:
    """Return how many classes ``scores`` tell apart, None when they are no classes."""
    if scores.ndim == len(("samples", "classes")) and scores.shape[1] > 1:
        return int(scores.shape[1])
    return None


def right(scores: Array, labels: Array) -> int:
    """Return how many top classes are the labels."""
    return int((scores.argmax(axis=1) == labels).sum())


def agreeing(reference: Array, scores: Array) -> int:
    """Return on how many samples ``scores`` agree with ``reference``.

    Classes agree by the top one; other scores when their error is a tenth at most.
    A score that is not finite never agrees.
    """
    finite = np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)
    if classes_of(reference) is not None:
        same = reference.argmax(axis=1) == scores.argmax(axis=1)
        return int((same & finite).sum())
    return int(((sample_errors(reference, scores) <= CLOSE) & finite).sum())


def sample_errors(reference: Array, scores: Array) -> Array:
    """Return each sample's root-mean-square error as a share of its reference."""
    flat = reference.reshape(len(reference), -1).astype(np.float64)
    off = scores.reshape(len(scores), -1).astype(np.float64) - flat
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.sqrt((off**2).mean(axis=1))
    size = np.sqrt((flat**2).mean(axis=1))
    return np.asarray(error / np.maximum(size, np.finfo(np.float32).tiny))


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of the share ``count`` / ``total``."""
    z = 1.959964
    share = count / total
    centre = share + z * z / (2 * total)
    spread = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    at = max(0, -int(-(len(sorted_values) * share) // 1) - 1)
    return sorted_values[min(at, len(sorted_values) - 1)]
