"""What drift is measured from: how inputs and answers were spread on the test data."""

from collections.abc import Iterator, Sequence

import numpy as np

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.evaluation import Baselines, InputBaseline
from quarterdeck_controller.optimize.metric.metric import Array

BINS = 16
MAX_CLASSES = 4096
MAX_INPUTS = 64
PROBABILITY_TOLERANCE = 0.02
"""As the device takes it."""
_DECILES = tuple(range(0, 101, 10))
_BATCH = 64


def baselines(
    inputs: Stored,
    scores: Array | None,
    classes: int | None,
    *,
    rows: Sequence[int] | None = None,
) -> Baselines:
    """Return the baselines of a variant on the test data.

    Args:
        inputs: The stored samples.
        scores: The variant's judged output for the rows, samples first; None where
            it is not one row of numbers for each sample.
        classes: How many classes they tell apart; None when they are no classes.
        rows: Which of the stored samples; None is all.
    """
    count = inputs.count if rows is None else len(rows)
    found = {name: np.empty((count, 2)) for name in inputs.names[:MAX_INPUTS]}
    at = 0
    for feed in inputs.batches(_BATCH, rows):
        size = 1 if not inputs.uniform else len(next(iter(feed.values())))
        for name, spread in found.items():
            spread[at : at + size] = _spread(feed[name], size)
        at += size
    # Of values near the largest there are the spread is no number.
    known = tuple(
        _input(name, spread)
        for name, spread in found.items()
        if np.isfinite(spread).all()
    )
    if scores is None or classes is None or classes > MAX_CLASSES:
        return Baselines(samples=count, inputs=known)
    shares, confidences = np.zeros(classes, np.int64), np.zeros(BINS, np.int64)
    for part in _finite_parts(scores):
        shares += np.bincount(part.argmax(axis=1), minlength=classes)
        confidences += np.bincount(_bins(part), minlength=BINS)
    answered = max(1, int(shares.sum()))
    return Baselines(
        samples=count,
        inputs=known,
        class_shares=tuple((shares / answered).tolist()),
        confidences=tuple((confidences / answered).tolist()),
    )


def _spread(array: Array, size: int) -> Array:
    flat = array.reshape(size, -1).astype(np.float64)
    if not flat.shape[1]:
        return np.zeros((size, 2))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def _input(name: str, spread: Array) -> InputBaseline:
    means, deviations = np.percentile(spread, _DECILES, axis=0).T
    return InputBaseline(
        name=name, deciles=tuple(means.tolist()), spreads=tuple(deviations.tolist())
    )


def _finite_parts(scores: Array) -> Iterator[Array]:
    for start in range(0, len(scores), _BATCH):
        part = np.asarray(scores[start : start + _BATCH], np.float64)
        yield part[np.isfinite(part).all(axis=1)]


def _bins(scores: Array) -> Array:
    """Return the bin of each sample's best score, as a device counts it.

    Scores that are no probabilities yet (not within 0 to 1, or not of sum one) pass a
    softmax.
    """
    low, high, total = scores.min(axis=1), scores.max(axis=1), scores.sum(axis=1)
    are = (low >= 0) & (high <= 1) & (np.abs(total - 1) <= PROBABILITY_TOLERANCE)
    softened = 1 / np.exp(scores - high[:, None]).sum(axis=1)
    best = np.where(are, high, softened)
    return np.asarray(np.minimum((best * BINS).astype(np.int64), BINS - 1))
