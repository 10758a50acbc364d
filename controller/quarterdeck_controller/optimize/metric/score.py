"""Counting and how sure it is: intervals, errors, percentiles. Pure."""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Interval = tuple[float, float]

CLOSE = 0.1
"""Relative error up to which scores that are no classes still agree."""
Z95 = 1.959964
_ENOUGH_FOR_PERCENTILES = 200


def classes_of(scores: Array) -> int | None:
    """Return how many classes ``scores`` tell apart, None when they are no classes."""
    if scores.ndim == len(("samples", "classes")) and scores.shape[1] > 1:
        return int(scores.shape[1])
    return None


def sample_errors(reference: Array, scores: Array) -> Array:
    """Return each sample's root-mean-square error as a share of its reference."""
    flat = reference.reshape(len(reference), -1).astype(np.float64)
    off = scores.reshape(len(scores), -1).astype(np.float64) - flat
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.sqrt((off**2).mean(axis=1))
    size = np.sqrt((flat**2).mean(axis=1))
    return np.asarray(error / np.maximum(size, np.finfo(np.float32).tiny))


def wilson(count: int, total: int) -> Interval:
    """Return Wilson's 95 % interval of the share ``count`` / ``total``."""
    share = count / total
    centre = share + Z95 * Z95 / (2 * total)
    spread = Z95 * sqrt(share * (1 - share) / total + Z95**2 / (4 * total * total))
    scale = 1 + Z95 * Z95 / total
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding apart


def paired_difference(first: Array, second: Array) -> Interval:
    """Return the 95 % interval of how much larger the share of ``first`` is.

    Newcombe's square-and-add interval for paired proportions (Statistics in Medicine
    17:2635, 1998, method 10). It is not of width zero where both always agree: a few
    samples do not prove that they always will.

    Args:
        first: Whether each sample was right.
        second: The same of the same samples.
    """
    total = len(first)
    both = int((first & second).sum())
    neither = int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    p, q = (both + only_first) / total, (both + only_second) / total
    (p_low, p_high), (q_low, q_high) = (
        wilson(both + only_first, total),
        wilson(both + only_second, total),
    )
    phi = _phi(both, only_first, only_second, neither)
    below, above = p - p_low, q_high - q
    low = p - q - sqrt(max(0.0, below**2 - 2 * phi * below * above + above**2))
    below, above = q - q_low, p_high - p
    high = p - q + sqrt(max(0.0, below**2 - 2 * phi * below * above + above**2))
    return max(-1.0, low), min(1.0, high)


def bootstrap(
    statistic: Callable[[Array], float], count: int, *, resamples: int, seed: int
) -> Interval:
    """Return the 95 % interval of a statistic over resampled samples.

    Percentiles of the resampled statistic (Efron 1979), or with few resamples 1.96 of
    their standard deviations about it.

    Args:
        statistic: Takes how often each sample counts.
        count: How many samples there are.
        resamples: How many times they are drawn anew.
        seed: Of the drawing.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(np.bincount(rng.integers(0, count, count), minlength=count) * 1.0)
        for _ in range(resamples)
    ]
    centre = statistic(np.ones(count))
    if resamples < _ENOUGH_FOR_PERCENTILES:
        spread = Z95 * float(np.std(drawn))
        return centre - spread, centre + spread
    low, high = np.percentile(drawn, [2.5, 97.5])
    return min(float(low), centre), max(float(high), centre)


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    at = max(0, -int(-(len(sorted_values) * share) // 1) - 1)
    return sorted_values[min(at, len(sorted_values) - 1)]


def _phi(both: int, first: int, second: int, neither: int) -> float:
    """Return the correlation, corrected for continuity as the method asks."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    total = both + first + second + neither
    excess: float = both * neither - first * second
    if excess > 0:
        excess = max(excess - total / 2, 0.0)
    return excess / sqrt(margins)
