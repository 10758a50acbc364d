"""From trials to figures, and from a decision to its evaluation record. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize import golden, steps
from quarterdeck_controller.optimize.data.samples import digest
from quarterdeck_controller.optimize.evaluation import (
    Evaluation,
    GoldenMeasured,
    Latency,
    Metric,
    Provenance,
    Side,
    Tried,
)
from quarterdeck_controller.optimize.metric import score
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.search.choose import (
    Candidate,
    Choice,
    Figures,
    misses,
)
from quarterdeck_controller.optimize.search.trial import Ready, Trial

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """The float model's own result, which every variant is held against.

    Attributes:
        rows: The golden vectors' rows, by how many a class asks for.
    """

    scores: Array
    measured: steps.Measured
    metric: Metric
    rows: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Context:
    """What the record tells beside the figures."""

    name: str
    labels: tuple[str, ...]
    seed: int
    versions: Mapping[str, str]
    isa: tuple[str, ...]


def metric_of(scores: Array, labels: Array | None) -> Metric:
    """Return what the score of a variant is."""
    if labels is not None:
        return "top1"
    return "closeness" if score.classes_of(scores) is None else "agreement"


def candidate(
    ready: Ready, reference: Reference, trial: Trial, profile: Profile
) -> Candidate:
    """Return the trial as a candidate for one class."""
    if trial.measured is None or trial.scores is None or trial.golden is None:
        return Candidate(trial.recipe, None, trial.failure)
    if trial.scores.shape != reference.scores.shape:
        told = (
            f"its scores have shape {list(trial.scores.shape)}, float's have "
            f"{list(reference.scores.shape)}"
        )
        return Candidate(trial.recipe, None, told)
    return Candidate(trial.recipe, _figures(ready, reference, trial, profile))


def write_record(
    ready: Ready,
    reference: Reference,
    profile: Profile,
    choice: Choice,
    candidates: Sequence[Candidate],
    *,
    context: Context,
    notes: tuple[str, ...],
    files: Mapping[str, str],
) -> Evaluation:
    """Return the evaluation record of a decision."""
    taken = choice.candidate
    figures = taken.figures if taken else None
    expected = reference.scores[list(reference.rows[profile.golden.count])]
    follow = figures.golden_error if figures and choice.accepted else None
    return Evaluation(
        name=context.name,
        device_class=profile.name,
        recipe=taken.recipe.name if taken else None,
        decision="accepted" if choice.accepted else "refused",
        reason=choice.reason,
        metric=reference.metric,
        samples=len(reference.scores),
        reference=_float_side(ready, reference, figures),
        variant=_side(figures) if figures else None,
        agreement=figures.agreement if figures else None,
        drop_points=figures.drop_points if figures else None,
        size_ratio=figures.size_ratio if figures else None,
        latency_ratio=figures.latency_ratio if figures else None,
        latency_known="measured" if is_measured(profile, context.isa) else "estimated",
        peak_memory_ratio=_memory_ratio(figures) if figures else None,
        golden=golden.thresholds(expected, follow, profile.golden),
        golden_measured=_golden_measured(figures) if figures else None,
        requires=profile.requirements(),
        limits=profile.limits(),
        labels=context.labels,
        threads=profile.threads,
        files=dict(files),
        tried=tuple(_tried(one, profile) for one in candidates),
        notes=notes,
        provenance=Provenance(
            model_sha256=ready.source.sha256,
            calibration_sha256=digest(ready.data.calibration),
            evaluation_sha256=digest(ready.data.evaluation),
            calibration_samples=len(ready.data.calibration),
            seed=context.seed,
            settings=asdict(taken.recipe) if taken else {},
            versions=dict(context.versions),
            machine_isa=context.isa,
        ),
    )


def is_measured(profile: Profile, isa: Sequence[str]) -> bool:
    """Return whether a machine with ``isa`` is one of the class.

    Everything is measured on the CPU: a class with another provider is stood in for.
    """
    alike = set(profile.isa) <= set(isa) and not set(profile.isa_absent) & set(isa)
    return alike and profile.provider == "CPUExecutionProvider"


def _figures(
    ready: Ready, reference: Reference, trial: Trial, profile: Profile
) -> Figures:
    assert trial.measured, "checked by the caller"
    assert trial.measured.reference_times, "variants are measured beside float"
    assert trial.scores is not None
    assert trial.golden is not None
    labels = ready.data.evaluation.labels
    total = len(reference.scores)
    agreement = score.agreeing(reference.scores, trial.scores) / total
    rows = reference.rows[profile.golden.count]
    expected = reference.scores[list(rows)]
    compared = golden.compare(
        expected,
        np.stack([trial.golden[row] for row in rows]),
        golden.thresholds(expected, None, profile.golden).margin,
    )
    return Figures(
        metric=reference.metric,
        samples=total,
        score=agreement
        if labels is None
        else score.right(trial.scores, labels) / total,
        reference_score=_float_score(reference.scores, labels),
        agreement=agreement,
        bytes=trial.bytes,
        reference_bytes=ready.source.bytes,
        latency=Latency(**trial.measured.times.model_dump()),
        reference_latency=Latency(**trial.measured.reference_times.model_dump()),
        peak_memory_mb=trial.measured.peak_memory_mb,
        reference_peak_memory_mb=reference.measured.peak_memory_mb,
        golden_agreement=compared.agreement,
        golden_error=compared.error,
    )


def _float_score(scores: Array, labels: Array | None) -> float:
    return 1.0 if labels is None else score.right(scores, labels) / len(scores)


def _float_side(ready: Ready, reference: Reference, figures: Figures | None) -> Side:
    total = len(reference.scores)
    share = _float_score(reference.scores, ready.data.evaluation.labels)
    times = reference.measured.times.model_dump()
    return Side(
        score=share,
        ci95=score.wilson(round(share * total), total),
        bytes=ready.source.bytes,
        latency=figures.reference_latency if figures else Latency(**times),
        peak_memory_mb=reference.measured.peak_memory_mb,
    )


def _side(figures: Figures) -> Side:
    return Side(
        score=figures.score,
        ci95=score.wilson(round(figures.score * figures.samples), figures.samples),
        bytes=figures.bytes,
        latency=figures.latency,
        peak_memory_mb=figures.peak_memory_mb,
    )


def _memory_ratio(figures: Figures) -> float:
    return figures.peak_memory_mb / max(figures.reference_peak_memory_mb, 1.0)


def _golden_measured(figures: Figures) -> GoldenMeasured | None:
    if figures.golden_error == float("inf"):
        return None
    return GoldenMeasured(
        agreement=figures.golden_agreement, error=figures.golden_error
    )


def _tried(one: Candidate, profile: Profile) -> Tried:
    if one.figures is None:
        return Tried(recipe=one.recipe.name, failure=one.failure)
    return Tried(
        recipe=one.recipe.name,
        misses=tuple(miss.sentence for miss in misses(one, profile)),
        variant=_side(one.figures),
        agreement=one.figures.agreement,
        size_ratio=one.figures.size_ratio,
        latency_ratio=one.figures.latency_ratio,
        peak_memory_ratio=_memory_ratio(one.figures),
    )
