"""What metrics see of samples, and how a score follows from it. Pure."""

from dataclasses import dataclass

import numpy as np

from quarterdeck_controller.optimize.metric.metric import Array, OfClass, integers

MAX_CLASSES = 1024


@dataclass(frozen=True, slots=True)
class Ratio:
    """A score that is the sum of ``parts`` over the sum of ``wholes``.

    With wholes of 1 it is a mean; a sample whose whole is 0 takes no part.
    """

    parts: Array
    wholes: Array

    def values(self) -> Array:
        """Return each sample's own ratio; 0 for one that takes no part."""
        return np.asarray(self.parts / np.where(self.wholes == 0, 1, self.wholes))

    def hits(self) -> Array | None:
        """Return which samples that take part were right, if they are or are not."""
        taking = self.wholes > 0
        if (self.wholes[taking] == 1).all() and np.isin(self.parts, (0, 1)).all():
            return np.asarray(self.parts[taking] == 1)
        return None

    def score(self, weights: Array | None = None) -> float:
        """Return the ratio; 0 when no sample takes part."""
        weights = np.ones(len(self.parts)) if weights is None else weights
        whole = float(weights @ self.wholes)
        return float(weights @ self.parts) / whole if whole else 0.0

    def by_class(self, labels: Array | None) -> tuple[OfClass, ...]:
        """Return the ratio over the samples of each class."""
        return tuple(
            OfClass(number, int(members.sum()), self.score(members.astype(float)))
            for number, members in members_of(labels)
        )


def mean(values: Array) -> Ratio:
    """Return the evidence of a score that is the mean of ``values``."""
    return Ratio(np.asarray(values, np.float64), np.ones(len(values)))


@dataclass(frozen=True, slots=True)
class RootMean:
    """A score that is the root of the mean of each sample's mean square."""

    squares: Array

    def values(self) -> Array:
        """Return each sample's own root mean square."""
        return np.asarray(np.sqrt(self.squares))

    def hits(self) -> Array | None:
        """Return None: an error is neither right nor wrong."""
        return None

    def score(self, weights: Array | None = None) -> float:
        """Return the root of the mean."""
        return float(np.sqrt(np.average(self.squares, weights=weights)))

    def by_class(self, labels: Array | None) -> tuple[OfClass, ...]:
        """Return nothing: there are no classes."""
        del labels
        return ()


@dataclass(frozen=True, slots=True)
class Confusion:
    """Which class was named for which; the score is the macro F1.

    The F1 of a class is the harmonic mean of precision and recall; the score is the
    mean over the classes that are labelled or named. A prediction of -1 is none.
    """

    labels: Array
    predicted: Array

    def values(self) -> Array:
        """Return for each sample whether it was right."""
        return np.asarray(self.labels == self.predicted, np.float64)

    def hits(self) -> Array | None:
        """Return None: F1 is no share of samples."""
        return None

    def score(self, weights: Array | None = None) -> float:
        """Return the macro F1."""
        f1, present = self._f1(weights)
        return float(f1[present].mean()) if present.any() else 0.0

    def by_class(self, labels: Array | None) -> tuple[OfClass, ...]:
        """Return the F1 of each class that is labelled."""
        f1, _ = self._f1(None)
        return tuple(
            OfClass(number, int(members.sum()), float(f1[number]))
            for number, members in members_of(labels)
        )

    def _f1(self, weights: Array | None) -> tuple[Array, Array]:
        weights = np.ones(len(self.labels)) if weights is None else weights
        size = int(max(self.labels.max(), self.predicted.max())) + 1
        right = self.labels == self.predicted
        hit = np.bincount(self.labels[right], weights[right], size)
        named = self.predicted >= 0
        wanted = np.bincount(self.labels, weights, size)
        given = np.bincount(self.predicted[named], weights[named], size)
        present = (wanted + given) > 0
        return 2 * hit / np.where(present, wanted + given, 1), present


def members_of(labels: Array | None) -> list[tuple[int, Array]]:
    """Return each class that occurs, with which samples are of it."""
    if labels is None or not integers(labels):
        return []
    numbers = np.unique(labels)
    if len(numbers) > MAX_CLASSES:
        return []
    return [(int(number), labels == number) for number in numbers]
