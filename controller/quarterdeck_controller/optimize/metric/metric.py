"""What a metric is: how good outputs are, sample by sample, and how they agree.

A score is given in its own direction: a share of right answers or a decibel rises as
a model gets better, an error rate or a distance falls (``lower_is_better``). How much
worse a variant is than float is told in points (``points``), positive for worse:

- of a share, shown in %: a point is a percentage point;
- of decibels, dB: a point is a tenth of one;
- of anything else, whose unit is the labels': a point is a percent of float's score.

Outputs that are not finite numbers count as wrong, and are counted (``broken``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import copysign
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Array = NDArray[Any]
Output = Array | Sequence[Array]
"""One output for all samples: one array, or one for each where their shapes differ."""
Outputs = Mapping[str, Output]
"""By name; the first is the one that is judged unless the metric names another."""

SHARE, DECIBEL, OTHER = "%", "dB", ""
MAX_POINTS = 1e6
_AT_ONCE = 1 << 20
"""Numbers that are worked on at once: outputs are mapped, and may be larger than
memory."""
_DIGITS = 9
"""Points are held against budgets: 5.0 must not come out as 5.000000000000004."""


@dataclass(frozen=True, slots=True)
class OfClass:
    """The score of one class alone, over so many samples of it."""

    number: int
    samples: int
    score: float


class Evidence(Protocol):
    """What was seen, sample by sample, from which any choice of samples is scored."""

    def values(self) -> Array:
        """Return one number per sample; the mean is the score of a metric of means."""
        ...

    def hits(self) -> Array | None:
        """Return which samples were right, where the score is the share of these."""
        ...

    def score(self, weights: Array | None = None) -> float:
        """Return the score when every sample counts ``weights`` times; None is once."""
        ...

    def by_class(self, labels: Array | None) -> tuple[OfClass, ...]:
        """Return the score of each class that occurs, where classes mean something."""
        ...


@dataclass(frozen=True, slots=True)
class About:
    """What to know of a metric.

    Attributes:
        name: As it is reported.
        unit: ``SHARE``, ``DECIBEL`` or ``OTHER``.
        labelled: Whether it compares with labels, or with the float model.
        output: The output it judges; empty is the first.
        lower_is_better: Whether the score counts what is wrong.
        labels_are_groups: Whether samples of one label must not be split, as where
            one of them is sought among the others.
    """

    name: str
    unit: str = SHARE
    labelled: bool = True
    output: str = ""
    lower_is_better: bool = False
    labels_are_groups: bool = False


class Metric(Protocol):
    """A way to judge outputs. Pure."""

    @property
    def about(self) -> About:
        """What to know of it."""
        ...

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return what is seen of ``outputs``.

        Args:
            outputs: Of the model that is judged.
            labels: One entry per sample.
            reference: Outputs of the float model for the same samples.

        Raises:
            RejectedError: ``DATA_INVALID`` when labels and outputs do not fit.
        """
        ...

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return for each sample whether both models answer alike."""
        ...


def points(about: About, reference: float, score: float) -> float:
    """Return how many points ``score`` is worse than float's ``reference``."""
    worse = score - reference if about.lower_is_better else reference - score
    if about.unit in {SHARE, DECIBEL}:
        return round((100 if about.unit == SHARE else 10) * worse, _DIGITS)
    if 100 * abs(worse) > MAX_POINTS * abs(reference):
        return copysign(MAX_POINTS, worse)
    return round(100 * worse / abs(reference), _DIGITS) if worse else 0.0


def pick(outputs: Outputs, name: str) -> Output:
    """Return the judged output: ``name``, or the first.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is none of that name.
    """
    if not name:
        return next(iter(outputs.values()))
    if name not in outputs:
        raise misfit(
            f"the metric judges the output {name}, the model gives {', '.join(outputs)}"
        )
    return outputs[name]


def outputs_of(stored: Stored) -> Outputs:
    """Return stored outputs as they are judged: mapped where their shapes are alike."""
    return {
        name: stored.array(name)
        if stored.same_shape(name)
        else tuple(stored.samples(name))
        for name in stored.names
    }


def by_rows(output: Output, of: Callable[[Array], Array]) -> Array:
    """Return what ``of`` makes of the samples, a few at a time, samples first."""
    if not isinstance(output, np.ndarray):
        return np.concatenate([of(one[None]) for one in output])
    return np.concatenate([of(output[rows]) for rows in slices(output)])


def slices(array: Array) -> list[slice]:
    """Return which samples of ``array`` to work on at once."""
    step = max(1, _AT_ONCE // max(1, array[0].size))
    return [slice(at, at + step) for at in range(0, len(array), step)]


def finite(output: Output) -> Array:
    """Return for each sample whether all its numbers are finite."""
    return by_rows(output, _finite)


def integers(labels: Array | None, rank: int = 1) -> bool:
    """Return whether the labels are integers in an array of ``rank``."""
    return labels is not None and labels.dtype.kind in "iub" and labels.ndim == rank


def misfit(detail: str) -> RejectedError:
    """Return the refusal of labels, outputs and metric that do not fit each other."""
    return RejectedError(Code.DATA_INVALID, detail)


def _finite(rows: Array) -> Array:
    if rows.dtype.kind != "f":
        return np.ones(len(rows), bool)
    flat = rows.reshape(len(rows), -1)
    return np.asarray(np.isfinite(flat).all(axis=1))
