"""Metrics of classes: top-1, top-k, and F1."""

from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from quarterdeck_controller.optimize.metric.agree import (
    agree_by_class,
    agree_by_side,
    agree_by_value,
)
from quarterdeck_controller.optimize.metric.evidence import Confusion, Ratio, mean
from quarterdeck_controller.optimize.metric.metric import (
    About,
    Array,
    Evidence,
    Output,
    Outputs,
    by_rows,
    finite,
    integers,
    misfit,
    pick,
)

IGNORED = -1
"""A label at a place that takes no part: padding, or a pixel that nobody labelled."""


@dataclass(frozen=True, slots=True)
class TopK:
    """Whether the label is among the ``k`` best scores.

    Scores are [samples, classes] with labels [samples]; [samples, places, classes] or
    [samples, classes, ...] with one label for each place, of which negative ones are
    left out: a sample's value is then the share of its places that are right. A model
    that gives one number for each sample, [samples, 1] or [samples], says class 1 above
    ``threshold`` and else class 0. One that gives integers gives the class itself.

    Attributes:
        threshold: Between classes 0 and 1; not a number is 0.5 where the float model's
            outputs are all within 0 to 1, else 0.
    """

    about: About
    k: int = 1
    threshold: float = nan

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return the share of right places of each sample; see ``Metric``."""
        output = pick(outputs, self.about.output)
        assert labels is not None
        if labels.dtype.kind not in "iub":
            raise misfit(
                f"labels are {labels.dtype}, {self.about.name} takes integers (the "
                "number of the class, from 0)"
            )
        if labels.ndim > 1:
            return _by_place(output, labels, self.k)
        threshold = self.threshold_for(pick(reference, self.about.output))
        ranked = ranked_classes(output, labels, self.k, threshold)
        right = (ranked == labels[:, None]).any(axis=1) & finite(output)
        return mean(right)

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where the top classes are the same; see ``Metric``."""
        mine = pick(outputs, self.about.output)
        theirs = pick(reference, self.about.output)
        if _given_as_class(theirs):
            return agree_by_value(mine, theirs)
        if _is_one_number(theirs):
            return agree_by_side(mine, theirs, self.threshold_for(theirs))
        return agree_by_class(mine, theirs, axis=_class_axis(theirs))

    def threshold_for(self, reference: Output) -> float:
        """Return the threshold, found in float's outputs where none was given."""
        if not isnan(self.threshold):
            return self.threshold
        within = by_rows(reference, _within_0_to_1)
        return 0.5 if within.all() else 0.0


@dataclass(frozen=True, slots=True)
class F1:
    """Macro F1 of the top class; outputs and labels as ``TopK`` takes one a sample."""

    top: TopK

    @property
    def about(self) -> About:
        """What to know of it."""
        return self.top.about

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return which class was named for which; see ``Metric``."""
        output = pick(outputs, self.about.output)
        if labels is None or not integers(labels):
            raise misfit("f1 takes one integer label for each sample")
        threshold = self.top.threshold_for(pick(reference, self.about.output))
        named = ranked_classes(output, labels, 1, threshold)[:, 0]
        return Confusion(
            labels.astype(np.int64), np.where(finite(output), named, IGNORED)
        )

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where the top classes are the same; see ``Metric``."""
        return self.top.agrees(outputs, reference)


def ranked_classes(output: Output, labels: Array, k: int, threshold: float) -> Array:
    """Return the ``k`` best classes of each sample, the best first.

    Raises:
        RejectedError: ``DATA_INVALID`` when these are no scores of classes, or the
            labels name none of them.
    """
    if not isinstance(output, np.ndarray):
        raise misfit("labels are one class a sample, the scores differ in shape")
    if _is_one_number(output):
        _check_range(labels, 2)
        flat = output.reshape(len(output))
        named = flat if output.dtype.kind in "iub" else flat > threshold
        return np.asarray(named).astype(np.int64)[:, None]
    if output.ndim != len(("samples", "classes")):
        raise misfit(
            "labels are one class a sample, but the model's scores are of shape "
            f"{list(output.shape)}, not [samples, classes]; name the metric, or leave "
            "the labels out to judge by agreement with float"
        )
    _check_range(labels, output.shape[1])
    _check_k(k, output.shape[1])
    if k == 1:
        return np.asarray(output.argmax(axis=1))[:, None]
    return np.argsort(-output, axis=1, kind="stable")[:, :k]


def _by_place(output: Output, labels: Array, k: int) -> Ratio:
    if isinstance(output, np.ndarray) and output.ndim == labels.ndim + 1:
        return _ratio([_right_places(output, labels, k)])
    parts = [
        _right_places(one[None], mine[None, : len(one)], k)
        for one, mine in zip(output, labels, strict=True)
    ]
    return _ratio(parts)


def _ratio(parts: list[tuple[Array, Array]]) -> Ratio:
    right = np.concatenate([part[0] for part in parts]).astype(np.float64)
    places = np.concatenate([part[1] for part in parts]).astype(np.float64)
    share = right / np.where(places == 0, 1, places)
    return Ratio(share, (places > 0).astype(np.float64))


def _right_places(scores: Array, labels: Array, k: int) -> tuple[Array, Array]:
    if scores.shape[:-1] == labels.shape:
        last = scores
    elif (scores.shape[0], *scores.shape[2:]) == labels.shape:
        last = np.moveaxis(scores, 1, -1)
    else:
        raise misfit(
            f"labels of shape {list(labels.shape)} do not fit scores of shape "
            f"{list(scores.shape)}: bring one for each place"
        )
    _check_range(labels[labels >= 0], last.shape[-1])
    _check_k(k, last.shape[-1])
    if k == 1:
        hit = last.argmax(axis=-1) == labels
    else:
        best = np.argpartition(-last, k - 1, axis=-1)[..., :k]
        hit = (best == labels[..., None]).any(axis=-1)
    counted = labels >= 0
    right = (hit & counted & np.isfinite(last).all(axis=-1)).reshape(len(labels), -1)
    return right.sum(axis=1), counted.reshape(len(labels), -1).sum(axis=1)


def _check_range(labels: Array, classes: int) -> None:
    if not labels.size:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise misfit(
            f"labels run from {low} to {high}, the model has {classes} classes (0 to "
            f"{classes - 1})"
        )


def _check_k(k: int, classes: int) -> None:
    """Refuse a ``k`` by which every answer of any model would be right."""
    if 1 < k >= classes:
        raise misfit(f"the best {k} of {classes} classes are never wrong: lower k")


def _given_as_class(output: Output) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind in "iub"


def _is_one_number(output: Output) -> bool:
    return (
        isinstance(output, np.ndarray)
        and len(output) > 0
        and output.size == len(output)
    )


def _class_axis(output: Output) -> int:
    """Return where the classes are: last for sequences, else after the samples."""
    rank = output.ndim if isinstance(output, np.ndarray) else output[0].ndim + 1
    return 1 if rank != len(("samples", "places", "classes")) else -1


def _within_0_to_1(rows: Array) -> Array:
    flat = rows.reshape(len(rows), -1)
    return np.asarray(((flat >= 0) & (flat <= 1)).all(axis=1))
