"""When two models answer alike: one definition for each kind of answer. Pure.

- Classes agree when the top one is the same, at every place that has scores.
- One number that is held against a threshold agrees when it is on the same side.
- Sequences agree when they are decoded to the same.
- Embeddings agree from a cosine of ``CLOSE_COSINE``.
- Integers agree when they are equal.
- Any other numbers agree when their root-mean-square error is ``CLOSE`` of the
  reference's root mean square at most.

Answers that are not finite, or of another shape, agree with nothing.
"""

from collections.abc import Callable

import numpy as np

from quarterdeck_controller.optimize.metric.metric import (
    Array,
    Output,
    finite,
    slices,
)
from quarterdeck_controller.optimize.metric.score import CLOSE, sample_errors

CLOSE_COSINE = 0.99


def agree_by_class(output: Output, reference: Output, axis: int = 1) -> Array:
    """Return where the top classes are the same."""

    def same(mine: Array, theirs: Array) -> Array:
        equal = mine.argmax(axis=axis) == theirs.argmax(axis=axis)
        return np.asarray(equal.reshape(len(equal), -1).all(axis=1))

    return _paired(output, reference, same)


def agree_by_side(output: Output, reference: Output, threshold: float) -> Array:
    """Return where both are on the same side of ``threshold``."""

    def same(mine: Array, theirs: Array) -> Array:
        equal = (mine > threshold) == (theirs > threshold)
        return np.asarray(equal.reshape(len(equal), -1).all(axis=1))

    return _paired(output, reference, same)


def agree_by_cosine(output: Output, reference: Output) -> Array:
    """Return where the cosine is ``CLOSE_COSINE`` at least."""
    return _paired(output, reference, lambda a, b: cosines(a, b) >= CLOSE_COSINE)


def agree_by_value(output: Output, reference: Output) -> Array:
    """Return where integers are equal, or other numbers close."""

    def same(mine: Array, theirs: Array) -> Array:
        if mine.dtype.kind in "iub":
            equal = (mine == theirs).reshape(len(mine), -1)
            return np.asarray(equal.all(axis=1))
        return np.asarray(sample_errors(theirs, mine) <= CLOSE)

    return _paired(output, reference, same)


def agree_as_it_seems(output: Output, reference: Output) -> Array:
    """Return where they agree as classes if they seem to be, else as values."""
    if seems_classes(reference):
        return agree_by_class(output, reference)
    return agree_by_value(output, reference)


def seems_classes(output: Output) -> bool:
    """Return whether there is one row of at least two float scores for each sample."""
    return (
        isinstance(output, np.ndarray)
        and output.ndim == len(("samples", "classes"))
        and output.shape[1] > 1
        and output.dtype.kind == "f"
    )


def cosines(mine: Array, theirs: Array) -> Array:
    """Return each sample's cosine; two zero vectors are alike."""
    a = mine.reshape(len(mine), -1).astype(np.float64)
    b = theirs.reshape(len(theirs), -1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = (a * b).sum(axis=1) / np.where(sizes == 0, 1, sizes)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.asarray(np.where(both_zero, 1.0, cosine))


def compared(
    output: Output, reference: Output, of: Callable[[Array, Array], Array], worst: float
) -> Array:
    """Return what ``of`` makes of each pair; ``worst`` where nothing can be made."""
    if _alike(output, reference):
        assert isinstance(output, np.ndarray)
        assert isinstance(reference, np.ndarray)
        found = _by_pairs(output, reference, of)
    else:
        pairs = zip(output, reference, strict=True)
        found = np.concatenate(
            [
                of(mine[None], theirs[None])
                if mine.shape == theirs.shape
                else np.array([worst])
                for mine, theirs in pairs
            ]
        )
    return np.asarray(np.where(finite(output), found, worst))


def _paired(
    output: Output, reference: Output, same: Callable[[Array, Array], Array]
) -> Array:
    return compared(output, reference, same, worst=False).astype(bool)


def _alike(output: Output, reference: Output) -> bool:
    return (
        isinstance(output, np.ndarray)
        and isinstance(reference, np.ndarray)
        and output.shape == reference.shape
    )


def _by_pairs(mine: Array, theirs: Array, of: Callable[[Array, Array], Array]) -> Array:
    return np.concatenate([of(mine[rows], theirs[rows]) for rows in slices(mine)])
