"""Which samples choose the recipe and which report the accuracy. Pure.

What chose a recipe is not what reports its accuracy: the best of many candidates looks
better on the samples that it was chosen on than it is. So the evaluation data is cut in
two, each half with its share of every class, and no group in both.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_controller.optimize.data.stored import Stored

FEWEST = 40
"""With fewer samples each half would prove nothing."""

Rows = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of the evaluation data, ascending.

    Attributes:
        separate: Whether no sample is in both.
        note: What was done, for people.
    """

    selection: Rows
    test: Rows
    separate: bool
    note: str


def split(
    count: int,
    *,
    labels: Array | None = None,
    groups: Array | None = None,
    seed: int = 0,
    test_share: float = 0.5,
) -> Split:
    """Return which of ``count`` samples select and which test.

    Whole groups are dealt, the largest first, each to the side that lacks it most: in
    samples of its classes where ``labels`` are one integer or text each, and in number.

    Args:
        count: How many samples there are.
        labels: One entry for each; used where they are classes.
        groups: One entry for each; None is that each is its own.
        seed: Of the order in which equals are dealt.
        test_share: Of the samples, for the test.
    """
    if count < FEWEST:
        return _together(
            count,
            f"there are {count} samples, fewer than the {FEWEST} it takes to part",
        )
    classes, rng = _classes(labels, count), np.random.default_rng(seed)
    if groups is None:
        into_test, units = _cut(classes, rng, test_share), count
    else:
        group = _numbered(groups)
        units = int(group.max()) + 1
        if units < len(("selection", "test")):
            return _together(count, "all samples are of one group")
        into_test = _deal(group, classes, rng, test_share)[group]
    selection, test = np.flatnonzero(~into_test), np.flatnonzero(into_test)
    what = "" if groups is None else f" of {units} groups, none in both"
    return Split(
        selection=tuple(selection.tolist()),
        test=tuple(test.tolist()),
        separate=True,
        note=(
            f"{len(selection)} samples choose the recipe and {len(test)} {APART}{what}"
        ),
    )


def thinned(count: int, most: int) -> Array:
    """Return the numbers of at most ``most`` of ``count`` samples, evenly spaced."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.int64)


def thinned_groups(rows: Rows, groups: Array, most: int) -> Rows:
    """Return at most ``most`` of ``rows`` by leaving out whole groups, evenly spaced.

    For where a sample means nothing without the others of its group, as in retrieval.
    The last group that would be too many is left out, but never the first.

    Args:
        rows: Rows of the data.
        groups: One entry for each sample of the data.
        most: How many rows.
    """
    if len(rows) <= most:
        return rows
    mine = _numbered(groups[list(rows)])
    sizes = np.bincount(mine)
    kept = max(1, round(len(sizes) * most / len(rows)))
    chosen = thinned(len(sizes), kept)
    while len(chosen) > 1 and sizes[chosen].sum() > most:
        chosen = chosen[:-1]
    return tuple(np.asarray(rows)[np.isin(mine, chosen)].tolist())


def shared_rows(calibration: Stored, evaluation: Stored) -> Rows:
    """Return which samples of ``evaluation`` are in ``calibration`` too."""
    seen = set(_digests(calibration))
    return tuple(row for row, one in enumerate(_digests(evaluation)) if one in seen)


def shared_note(shared: Sequence[int], count: int) -> str | None:
    """Return what to say of samples in both sets; None if there are none."""
    if not shared:
        return None
    return (
        f"{len(shared)} of {count} evaluation samples are calibration samples too: the "
        "score is kinder than the field will be"
    )


def _together(count: int, why: str) -> Split:
    rows = tuple(range(count))
    return Split(
        selection=rows,
        test=rows,
        separate=False,
        note=(f"{why}: {TOGETHER}, so the score is kinder than the field will be"),
    )


def _cut(classes: Array, rng: np.random.Generator, share: float) -> Array:
    """Return for each sample whether it goes to the test: every so many of a class."""
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    steps = np.floor(np.arange(len(classes) + 1) * share + 1e-9)
    into_test = np.zeros(len(classes), bool)
    into_test[order] = np.diff(steps) > 0
    return into_test


def _deal(unit: Array, classes: Array, rng: np.random.Generator, share: float) -> Array:
    """Return for each unit whether it goes to the test."""
    units, kinds = int(unit.max()) + 1, int(classes.max()) + 1
    content = np.zeros((units, kinds), np.int64)
    np.add.at(content, (unit, classes), 1)
    goal = np.outer([1 - share, share], content.sum(axis=0))
    order = rng.permutation(units)
    order = order[np.argsort(-content[order].sum(axis=1), kind="stable")]
    dealt = np.zeros((2, kinds))
    into_test = np.zeros(units, bool)
    for one in order.tolist():
        present = content[one] > 0
        lack = ((goal - dealt)[:, present] * content[one][present]).sum(axis=1)
        overall = (goal - dealt).sum(axis=1)
        side = int((lack[1], overall[1]) > (lack[0], overall[0]))
        dealt[side] += content[one]
        into_test[one] = bool(side)
    if into_test.all() or not into_test.any():
        into_test[order[-1]] = not into_test[order[-1]]
    return into_test


def _classes(labels: Array | None, count: int) -> Array:
    if labels is None or labels.shape != (count,) or labels.dtype.kind not in "iubU":
        return np.zeros(count, np.int64)
    found = _numbered(labels)
    few = int(found.max()) + 1 <= count // 2
    return found if few else np.zeros(count, np.int64)


def _numbered(values: Array) -> Array:
    return np.asarray(np.unique(values, return_inverse=True)[1]).reshape(-1)


def _digests(stored: Stored) -> Iterator[bytes]:
    for feed in stored.batches(1):
        state = hashlib.sha256()
        for array in feed.values():
            state.update(repr(array.shape).encode())
            state.update(np.ascontiguousarray(array).tobytes())
        yield state.digest()


APART = "others report its accuracy"
TOGETHER = "the same samples choose the recipe and report its accuracy"
"""What the note says where samples were kept apart, and where they were not."""
