"""Judge a model's outputs against labels and float, and say how sure that is. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quarterdeck_controller.optimize.evaluation import ClassScore
from quarterdeck_controller.optimize.metric.given import FEW_RESAMPLES, Given, Whole
from quarterdeck_controller.optimize.metric.metric import (
    SHARE,
    Array,
    Evidence,
    Metric,
    Outputs,
    finite,
    misfit,
    pick,
    points,
)
from quarterdeck_controller.optimize.metric.score import (
    Interval,
    bootstrap,
    paired_difference,
    wilson,
)

MAX_NAME = 200
RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Judged:
    """How good the outputs are.

    Attributes:
        score: In the metric's own direction.
        ci95: Wilson's interval of a share, else of the bootstrap.
        agreement: Share of samples that agree with float.
        agrees: For each sample whether it does.
        values: The metric's value of each sample.
        broken: How many samples' outputs are not finite.
        evidence: What any choice of the samples would score.
    """

    score: float
    ci95: Interval
    per_class: tuple[ClassScore, ...]
    agreement: float
    agrees: Array
    values: Array
    broken: int
    evidence: Evidence

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of it beside the score."""
        if not self.broken:
            return ()
        told = f"{self.broken} of {len(self.values)} samples gave outputs that are not"
        return (f"{told} finite numbers; they count as wrong",)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant beside float, on the same samples.

    Attributes:
        drop_points: How much worse the variant is (``metric.points``).
        drop_ci95: 95 % interval of the drop, sample by sample.
    """

    reference: Judged
    variant: Judged
    drop_points: float
    drop_ci95: Interval


def judge(
    metric: Metric,
    outputs: Outputs,
    labels: Array | None,
    reference: Outputs,
    *,
    seed: int = 0,
    names: Sequence[str] = (),
) -> Judged:
    """Return how good ``outputs`` are.

    Args:
        metric: By which.
        outputs: Of the model, for all samples.
        labels: One entry per sample; None where the metric needs none.
        reference: The float model's outputs for the same samples; the same as
            ``outputs`` for the float model itself.
        seed: Of the bootstrap.
        names: Of the classes, in the order of the scores.

    Raises:
        RejectedError: ``DATA_INVALID`` when labels, outputs and metric do not fit.
    """
    judged = pick(outputs, metric.about.output)
    if metric.about.labelled:
        _check_labels(metric, labels, len(judged))
    evidence = metric.evidence(outputs, labels, reference)
    sound = finite(judged)
    agrees = sound
    if outputs is not reference:
        agrees = metric.agrees(outputs, reference) & sound
    return Judged(
        score=evidence.score(),
        ci95=_interval(evidence, len(judged), seed),
        per_class=tuple(
            ClassScore(
                name=_name(one.number, names), samples=one.samples, score=one.score
            )
            for one in evidence.by_class(labels)
        ),
        agreement=float(agrees.mean()),
        agrees=agrees,
        values=evidence.values(),
        broken=int((~sound).sum()),
        evidence=evidence,
    )


def paired_drop(
    metric: Metric, reference: Judged, variant: Judged, *, seed: int = 0
) -> tuple[float, Interval]:
    """Return how many points worse the variant is, and the 95 % interval of that.

    A share of right samples is compared by Newcombe's interval for paired shares, all
    else by a bootstrap that draws the same samples for both.
    """
    drop = points(metric.about, reference.score, variant.score)
    before, after = reference.evidence.hits(), variant.evidence.hits()
    if metric.about.unit == SHARE and before is not None and after is not None:
        if metric.about.lower_is_better:
            before, after = after, before
        low, high = paired_difference(before, after)
        return drop, (100 * low, 100 * high)

    def resampled(weights: Array) -> float:
        return points(
            metric.about,
            reference.evidence.score(weights),
            variant.evidence.score(weights),
        )

    count = len(variant.values)
    low, high = bootstrap(
        resampled, count, resamples=_resamples(variant.evidence), seed=seed
    )
    if metric.about.unit == SHARE and np.array_equal(reference.values, variant.values):
        unseen = 100 * wilson(0, count)[1]  # no sample differs: so many still may
        low, high = min(low, -unseen), max(high, unseen)
    return drop, (low, high)


def compare(
    metric: Metric,
    outputs: Outputs,
    labels: Array | None,
    reference: Outputs,
    *,
    seed: int = 0,
    names: Sequence[str] = (),
) -> Comparison:
    """Return a variant judged beside the float model; see ``judge``."""
    float_judged = judge(metric, reference, labels, reference, seed=seed, names=names)
    judged = judge(metric, outputs, labels, reference, seed=seed, names=names)
    drop, ci95 = paired_drop(metric, float_judged, judged, seed=seed)
    return Comparison(float_judged, judged, drop, ci95)


def _interval(evidence: Evidence, count: int, seed: int) -> Interval:
    hits = evidence.hits()
    if hits is not None and len(hits):
        return wilson(int(hits.sum()), len(hits))
    return bootstrap(evidence.score, count, resamples=_resamples(evidence), seed=seed)


def _resamples(evidence: Evidence) -> int:
    return FEW_RESAMPLES if isinstance(evidence, Whole) else RESAMPLES


def _check_labels(metric: Metric, labels: Array | None, count: int) -> None:
    if labels is None and not isinstance(metric, Given):
        raise misfit(f"the metric {metric.about.name} needs labels, there are none")
    if labels is not None and len(labels) != count:
        raise misfit(f"there are {len(labels)} labels for {count} outputs")


def _name(number: int, names: Sequence[str]) -> str:
    return (names[number] if 0 <= number < len(names) else str(number))[:MAX_NAME]
