"""Golden vectors of one model: which evaluation samples, and float's scores of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize import golden
from quarterdeck_controller.optimize.data.stored import Stored

Array = NDArray[Any]


@dataclass(frozen=True)
class Vectors:
    """What devices must reproduce.

    Attributes:
        rows: Rows of the evaluation samples.
        expected: The float model's scores of each, samples first.
        scale: Of its scores of all samples that choose.
    """

    rows: tuple[int, ...]
    expected: Array
    scale: golden.Scale


def choose_vectors(
    samples: Stored,
    outputs: Stored,
    output: str,
    *,
    labels: Array | None,
    rows: Sequence[int],
    count: int,
    seed: int,
) -> Vectors:
    """Return ``count`` golden vectors from the selection samples, all of one shape.

    Args:
        samples: All evaluation samples.
        outputs: The float model's outputs on ``rows``.
        output: The judged one.
        labels: Of all evaluation samples.
        rows: The selection samples' rows.
        count: How many are wanted.
        seed: Draws those that are drawn.
    """
    every = list(outputs.samples(output))
    shapes = [
        (scores.shape, *(one.shape for one in samples.sample(row).values()))
        for scores, row in zip(every, rows, strict=True)
    ]
    usual = Counter(shapes).most_common(1)[0][0]
    fit = [at for at, shape in enumerate(shapes) if shape == usual]
    scores = np.stack([every[at] for at in fit])
    kinds = None
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu":
        kinds = labels[[rows[at] for at in fit]]
    chosen = golden.choose_vectors(scores, kinds, count=count, seed=seed)
    return Vectors(
        rows=tuple(rows[fit[at]] for at in chosen),
        expected=scores[list(chosen)],
        scale=golden.scale_of(scores),
    )


def encode(samples: Stored, vectors: Vectors, output: str) -> bytes:
    """Return the bytes of ``golden.npz``."""
    feeds = [samples.sample(row) for row in vectors.rows]
    inputs = {
        name: np.stack([_without_batch(samples, name, feed[name]) for feed in feeds])
        for name in samples.names
    }
    return golden.encode(inputs, output, vectors.expected)


def _without_batch(samples: Stored, name: str, array: Array) -> Array:
    return array if name in samples.whole else array[0]
