"""A metric of the operator's own.

``module:function`` or ``file.py:function``, called as ``function(outputs, labels)``:
``outputs`` maps each output's name to one array, samples first, or to a list of arrays
where the samples' shapes differ; ``labels`` is the labels' array or None. It returns
one number for each sample, of which the mean is the score, or one number for all.

More is better, unless it says ``better=lower``. ``unit=%``, which goes without saying,
is for shares from 0 to 1; ``unit=dB`` and ``unit=other`` for any numbers. A number for
a sample that is not finite counts as the worst that there is, or that was seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from quarterdeck_controller.optimize.data.entry import find_function, told
from quarterdeck_controller.optimize.metric.agree import agree_as_it_seems
from quarterdeck_controller.optimize.metric.evidence import Ratio, mean
from quarterdeck_controller.optimize.metric.metric import (
    DECIBEL,
    OTHER,
    SHARE,
    About,
    Array,
    Evidence,
    OfClass,
    Output,
    Outputs,
    misfit,
    pick,
)

Function = Callable[[dict[str, Any], Array | None], Any]
UNITS: Mapping[str, str] = MappingProxyType({"%": SHARE, "dB": DECIBEL, "other": OTHER})
ARGUMENTS = ("better", "unit")
FEW_RESAMPLES = 40
"""Resamples of a score of all samples, whose function is called anew for each."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A score that one call gives for all samples."""

    given: "Given"
    outputs: Outputs
    labels: Array | None

    def values(self) -> Array:
        """Return the score for each sample: it has no parts."""
        return np.full(_count(self.outputs), self.score())

    def hits(self) -> Array | None:
        """Return None: which samples were right is not known."""
        return None

    def score(self, weights: Array | None = None) -> float:
        """Return what the function says of the samples, each taken so many times."""
        if weights is None:
            return float(self.given.call(self.outputs, self.labels).reshape(-1)[0])
        rows = np.repeat(np.arange(len(weights)), weights.astype(np.int64))
        labels = None if self.labels is None else self.labels[rows]
        taken = {name: _rows(output, rows) for name, output in self.outputs.items()}
        return float(self.given.call(taken, labels).reshape(-1)[0])

    def by_class(self, labels: Array | None) -> tuple[OfClass, ...]:
        """Return nothing: the function speaks for all classes."""
        del labels
        return ()


@dataclass(frozen=True, slots=True)
class Given:
    """The operator's function as a metric."""

    about: About
    function: Function

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return what the function says; see ``Metric``."""
        found, count = self.call(outputs, labels), _count(outputs)
        if found.size == 1 and (found.ndim == 0 or count > 1):
            self._check(found, every=True)
            return Whole(self, outputs, labels)
        if found.shape != (count,):
            raise misfit(
                f"the metric {self.about.name} returned shape {list(found.shape)} for "
                f"{count} samples; return one number for each, or one for all"
            )
        self._check(found, every=False)
        if np.isfinite(found).all():
            return mean(found)
        return self._mended(found, self.call(reference, labels))

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where they agree as classes or as values; see ``Metric``."""
        return agree_as_it_seems(
            pick(outputs, self.about.output), pick(reference, self.about.output)
        )

    def call(self, outputs: Outputs, labels: Array | None) -> Array:
        """Return what the function returns, as numbers.

        Raises:
            RejectedError: ``DATA_INVALID`` with its line when it fails, or returns
                something else.
        """
        plain = {
            name: output if isinstance(output, np.ndarray) else list(output)
            for name, output in outputs.items()
        }
        with told(self.about.name):
            return np.asarray(self.function(plain, labels), np.float64)

    def _check(self, found: Array, *, every: bool) -> None:
        if every and not np.isfinite(found).all():
            raise misfit(f"the metric {self.about.name} returned {found}")
        known = found[np.isfinite(found)]
        if self.about.unit == SHARE and ((known < 0) | (known > 1)).any():
            raise misfit(
                f"the metric {self.about.name} returned {known.min():g} to "
                f"{known.max():g}; a share goes from 0 to 1: name the unit, as in "
                f"{self.about.name}:unit=other"
            )

    def _mended(self, found: Array, floats: Array) -> Ratio:
        lower = self.about.lower_is_better
        known = np.concatenate([floats.reshape(-1), found])
        known = known[np.isfinite(known)]
        if self.about.unit == SHARE:
            known = np.array([0.0, 1.0])
        worst = 0.0 if not known.size else (known.max() if lower else known.min())
        return mean(np.where(np.isfinite(found), found, worst))


def make_given(about: About, given: str, values: Mapping[str, str]) -> Given:
    """Return the function named ``given`` as a metric.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is no such function.
        ValueError: An argument has a value that it cannot have.
    """
    better, unit = values.get("better", "higher"), values.get("unit", "%")
    if better not in {"higher", "lower"}:
        raise ValueError(f"better is {better}, it must be higher or lower")
    if unit not in UNITS:
        raise ValueError(f"unit is {unit}, it must be one of {', '.join(UNITS)}")
    known = About(
        name=about.name,
        unit=UNITS[unit],
        output=about.output,
        lower_is_better=better == "lower",
    )
    return Given(known, find_function(given))


def _rows(output: Output, rows: Array) -> Output:
    if isinstance(output, np.ndarray):
        return output[rows]
    return [output[row] for row in rows.tolist()]


def _count(outputs: Outputs) -> int:
    return len(next(iter(outputs.values())))
