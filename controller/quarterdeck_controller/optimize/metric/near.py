"""Metrics of how near outputs are to float's, or to labels that are numbers."""

from dataclasses import dataclass

import numpy as np

from quarterdeck_controller.optimize.metric.agree import (
    agree_as_it_seems,
    agree_by_cosine,
    agree_by_value,
    compared,
    cosines,
)
from quarterdeck_controller.optimize.metric.evidence import RootMean, mean
from quarterdeck_controller.optimize.metric.metric import (
    About,
    Array,
    Evidence,
    Output,
    Outputs,
    misfit,
    pick,
)
from quarterdeck_controller.optimize.metric.score import sample_errors

MOST_DB = 100.0
"""A perfect estimate is given so many decibels, a broken one as many below 0."""
MOST_SQUARE = 1e300
BROKEN_FACTOR = 10.0
"""An output that is not finite counts as off by so many times the largest target."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The share of samples on which the model agrees with float (``metric.agree``)."""

    about: About

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return where they agree; see ``Metric``."""
        del labels
        return mean(self.agrees(outputs, reference))

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where they agree; see ``Metric``."""
        return agree_as_it_seems(
            pick(outputs, self.about.output), pick(reference, self.about.output)
        )


@dataclass(frozen=True, slots=True)
class Closeness:
    """One less the relative root-mean-square error to float, 0 at least."""

    about: About

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return the closeness of each sample; see ``Metric``."""
        del labels

        def close(mine: Array, theirs: Array) -> Array:
            return 1 - np.minimum(sample_errors(theirs, mine), 1)

        mine = pick(outputs, self.about.output)
        return mean(compared(mine, pick(reference, self.about.output), close, 0))

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where the values are close; see ``Metric``."""
        return agree_by_value(
            pick(outputs, self.about.output), pick(reference, self.about.output)
        )


@dataclass(frozen=True, slots=True)
class Cosine:
    """The cosine with float's output, 0 at least."""

    about: About

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return the cosine of each sample; see ``Metric``."""
        del labels
        mine = pick(outputs, self.about.output)
        found = compared(mine, pick(reference, self.about.output), cosines, 0)
        return mean(np.clip(found, 0, 1))

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where the cosine is near 1; see ``Metric``."""
        return agree_by_cosine(
            pick(outputs, self.about.output), pick(reference, self.about.output)
        )


@dataclass(frozen=True, slots=True)
class Rmse:
    """The root of the mean square error to labels that are shaped like the output."""

    about: About

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return the mean square error of each sample; see ``Metric``."""
        del reference
        output = pick(outputs, self.about.output)
        pairs = _with_targets(output, labels, self.about.name)
        broken = (BROKEN_FACTOR * max(float(np.abs(pairs[1]).max()), 1e-12)) ** 2

        def square(mine: Array, targets: Array) -> Array:
            with np.errstate(invalid="ignore", over="ignore"):
                off = mine.astype(np.float64) - targets.astype(np.float64)
                return np.asarray((off**2).mean(axis=1))

        squares = compared(*pairs, square, broken).astype(np.float64)
        return RootMean(np.minimum(squares, MOST_SQUARE))

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where the values are close; see ``Metric``."""
        return agree_by_value(
            pick(outputs, self.about.output), pick(reference, self.about.output)
        )


@dataclass(frozen=True, slots=True)
class SiSdr:
    """Scale-invariant signal-to-distortion ratio of signals to the labels, in dB.

    Le Roux et al., "SDR: half-baked or well done?" (ICASSP 2019): both without their
    mean, 10 log10 of the energy of the target, scaled to fit best, over that of what is
    left. Kept within ``MOST_DB`` of 0.
    """

    about: About

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return the ratio of each sample; see ``Metric``."""
        del reference
        output = pick(outputs, self.about.output)
        pairs = _with_targets(output, labels, self.about.name)
        return mean(compared(*pairs, si_sdr, -MOST_DB))

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where the values are close; see ``Metric``."""
        return agree_by_value(
            pick(outputs, self.about.output), pick(reference, self.about.output)
        )


def si_sdr(mine: Array, targets: Array) -> Array:
    """Return the ratio of each row of ``mine`` to its row of ``targets``, dB."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        x = mine.astype(np.float64) - mine.mean(axis=1, keepdims=True, dtype=np.float64)
        s = targets.astype(np.float64)
        s = s - s.mean(axis=1, keepdims=True)
        energy = (s**2).sum(axis=1, keepdims=True)
        fitted = s * ((x * s).sum(axis=1, keepdims=True) / np.where(energy, energy, 1))
        left = ((x - fitted) ** 2).sum(axis=1)
        ratio = 10 * np.log10((fitted**2).sum(axis=1) / left)
    return np.asarray(np.clip(np.nan_to_num(ratio, nan=-MOST_DB), -MOST_DB, MOST_DB))


def _with_targets(
    output: Output, labels: Array | None, name: str
) -> tuple[Array, Array]:
    """Return outputs and targets, one row a sample."""
    if labels is None or labels.dtype.kind not in "iubf":
        raise misfit(f"{name} takes numbers as labels, shaped like the output")
    if not isinstance(output, np.ndarray) or output[0].size != labels[0].size:
        shape = list(output.shape) if isinstance(output, np.ndarray) else "that differ"
        raise misfit(
            f"labels have shape {list(labels.shape)}, {name} takes one number for each "
            f"of the output's: {shape}"
        )
    return output.reshape(len(output), -1), labels.reshape(len(labels), -1)
