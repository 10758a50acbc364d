"""Mean average precision of detected boxes.

Outputs, found by name or given as arguments ``boxes=``, ``scores=``, ``classes=``:

- boxes [samples, boxes, 4] as x1, y1, x2, y2,
- scores [samples, boxes] with classes of the same shape, or scores [samples, boxes,
  classes], or scores alone for a single class,
- or one output [samples, boxes, 6] as x1, y1, x2, y2, score, class.

Their number of boxes may differ by sample. Labels are [samples, most, 5] as class, x1,
y1, x2, y2, in rows that are padded with -1.

Precision is averaged over recall for each class that is labelled, at all points, made
monotone from the right (the PASCAL VOC measure from 2010 on), and meaned over classes.
A detection is right when it overlaps a box of its class by ``iou`` that no better
scored detection has taken: of those the one that it overlaps most.
"""

from dataclasses import dataclass

import numpy as np

from quarterdeck_controller.optimize.metric.metric import (
    About,
    Array,
    Evidence,
    OfClass,
    Outputs,
    misfit,
    pick,
)

CLEAR = 0.5
"""From this score on, a detection must have its like in the other model's answer."""
_ROW = 6
_LABEL = 5


@dataclass(frozen=True, slots=True)
class Boxes:
    """What was detected in one sample."""

    corners: Array
    scores: Array
    classes: Array


@dataclass(frozen=True, slots=True)
class Detections:
    """All detections by falling score, and whether they were right.

    Attributes:
        sample: Of which sample each is.
        right: Whether it found a labelled box.
        wanted: Labelled boxes by sample and class.
        numbers: Of the classes, in the order of ``wanted``.
    """

    sample: Array
    kind: Array
    right: Array
    wanted: Array
    numbers: Array

    def values(self) -> Array:
        """Return each sample's share of labelled boxes that were found."""
        found = np.bincount(self.sample, self.right * 1.0, len(self.wanted))
        total = self.wanted.sum(axis=1)
        return np.asarray(np.where(total == 0, 1.0, found / np.maximum(total, 1)))

    def hits(self) -> Array | None:
        """Return None: a precision over recall is no share of samples."""
        return None

    def score(self, weights: Array | None = None) -> float:
        """Return the mean over the classes."""
        weights = np.ones(len(self.wanted)) if weights is None else weights
        found = [self._average(n, weights) for n in range(len(self.numbers))]
        present = [one for one in found if one is not None]
        return float(np.mean(present)) if present else 0.0

    def by_class(self, labels: Array | None) -> tuple[OfClass, ...]:
        """Return the average precision of each class; its samples are boxes."""
        del labels
        weights = np.ones(len(self.wanted))
        boxes = self.wanted.sum(axis=0)
        return tuple(
            OfClass(int(number), int(boxes[n]), self._average(n, weights) or 0.0)
            for n, number in enumerate(self.numbers)
        )

    def _average(self, number: int, weights: Array) -> float | None:
        total = float(weights @ self.wanted[:, number])
        if total == 0:
            return None
        of_kind = self.kind == self.numbers[number]
        weight, right = weights[self.sample[of_kind]], self.right[of_kind]
        hit, all_ = np.cumsum(weight * right), np.cumsum(weight)
        precision = hit / np.maximum(all_, np.finfo(np.float64).tiny)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        return float((np.diff(hit, prepend=0.0) * precision).sum() / total)


@dataclass(frozen=True, slots=True)
class MeanAveragePrecision:
    """The metric; see the module."""

    about: About
    iou: float = 0.5
    boxes: str = ""
    scores: str = ""
    classes: str = ""

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return all detections and whether they were right; see ``Metric``."""
        del reference
        if labels is None or labels.ndim != len("nml") or labels.shape[-1] != _LABEL:
            raise misfit(
                "map takes labels of shape [samples, boxes, 5]: class, x1, y1, x2, y2 "
                "in rows padded with -1"
            )
        found = self._boxes(outputs)
        wanted = [rows[rows[:, 0] >= 0] for rows in labels]
        right = [_right(a, b, self.iou) for a, b in zip(found, wanted, strict=True)]
        numbers = np.unique(np.concatenate([rows[:, 0] for rows in wanted]))
        scores = np.concatenate([one.scores for one in found])
        order = np.argsort(-scores, kind="stable")
        sample = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])
        return Detections(
            sample[order],
            np.concatenate([one.classes for one in found])[order],
            np.concatenate(right)[order],
            np.array([[(r[:, 0] == n).sum() for n in numbers] for r in wanted]),
            numbers,
        )

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where every clear detection of one is one of the other's too."""
        pairs = zip(self._boxes(outputs), self._boxes(reference), strict=True)
        return np.array(
            [
                bool(_covered(a, b, self.iou) and _covered(b, a, self.iou))
                for a, b in pairs
            ]
        )

    def _boxes(self, outputs: Outputs) -> list[Boxes]:
        named = self.boxes or ("boxes" if "boxes" in outputs else "")
        if not named:
            return [_from_rows(np.asarray(one)) for one in pick(outputs, "")]
        corners = pick(outputs, named)
        scores = pick(outputs, self.scores or "scores")
        kinds = self.classes or next(
            (name for name in ("classes", "labels") if name in outputs), ""
        )
        given = pick(outputs, kinds) if kinds else [None] * len(corners)
        return [
            _from_parts(np.asarray(a), np.asarray(b), c)
            for a, b, c in zip(corners, scores, given, strict=True)
        ]


def overlaps(first: Array, second: Array) -> Array:
    """Return the intersection over union of every box with every other."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    union = _areas(first)[:, None] + _areas(second)[None] - shared
    return np.asarray(shared / np.where(union > 0, union, 1))


def _areas(boxes: Array) -> Array:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


def _from_rows(rows: Array) -> Boxes:
    if rows.ndim != len(("boxes", "row")) or rows.shape[-1] != _ROW:
        raise misfit(
            "map takes outputs boxes, scores and classes, or one [samples, boxes, 6] "
            "as x1, y1, x2, y2, score, class; a sample's first output is "
            f"{list(rows.shape)}"
        )
    return _kept(rows[:, :4], rows[:, 4], rows[:, 5])


def _from_parts(corners: Array, scores: Array, kinds: Array | None) -> Boxes:
    corners = corners.reshape(-1, 4)
    if kinds is not None:
        return _kept(corners, scores.reshape(-1), np.asarray(kinds).reshape(-1))
    table = scores.reshape(len(corners), -1) if len(corners) else scores.reshape(0, 1)
    classes = np.tile(np.arange(table.shape[1]), len(corners))
    return _kept(np.repeat(corners, table.shape[1], axis=0), table.reshape(-1), classes)


def _kept(corners: Array, scores: Array, kinds: Array) -> Boxes:
    """Leave out padding, which has no score, and what is not finite."""
    if not len(corners) == len(scores) == len(kinds):
        raise misfit(
            f"{len(corners)} boxes, {len(scores)} scores and {len(kinds)} classes in "
            "one sample"
        )
    keep = np.isfinite(corners).all(axis=1) & np.isfinite(scores) & (scores > 0)
    return Boxes(corners[keep].astype(np.float64), scores[keep], kinds[keep])


def _right(found: Boxes, wanted: Array, least: float) -> Array:
    right = np.zeros(len(found.scores), bool)
    near = overlaps(found.corners, wanted[:, 1:].astype(np.float64))
    near[found.classes[:, None] != wanted[None, :, 0]] = 0
    for one in np.argsort(-found.scores, kind="stable").tolist():
        if near.shape[1] and near[one].max() >= least:
            right[one] = True
            near[:, near[one].argmax()] = 0
    return right


def _covered(first: Boxes, second: Boxes, least: float) -> bool:
    """Return whether each clear detection of the first is one of the second's."""
    clear = first.scores >= CLEAR
    near = overlaps(first.corners[clear], second.corners)
    near[first.classes[clear][:, None] != second.classes[None]] = 0
    return bool((near >= least).any(axis=1).all())
