"""From a verdict to the evaluation record, and from a climb to its story. Pure."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from quarterdeck_controller.optimize import golden, steps
from quarterdeck_controller.optimize.data.split import Split
from quarterdeck_controller.optimize.evaluation import (
    ClassScore,
    Evaluation,
    Latency,
    Provenance,
    Side,
)
from quarterdeck_controller.optimize.measure.fidelity import tolerance
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures
from quarterdeck_controller.optimize.search.choose import (
    blame,
    fits,
    front,
    misses,
    praise,
)
from quarterdeck_controller.optimize.search.climb import Climb
from quarterdeck_controller.optimize.search.confirm import Verdict
from quarterdeck_controller.optimize.search.ready import Ready
from quarterdeck_controller.optimize.search.story import (
    Allowed,
    Histogram,
    SensitiveNode,
    Story,
    TimeShare,
    TrainingPoint,
    Tried,
)
from quarterdeck_controller.optimize.search.trial import kernels_of
from quarterdeck_shared.index import Golden

BLOCK = 1 << 20
MOST_CLASSES = 1024


@dataclass(frozen=True, slots=True)
class Context:
    """What the records tell beside the figures."""

    name: str
    labels: tuple[str, ...]
    seed: int
    versions: Mapping[str, str]
    isa: tuple[str, ...]
    invocation: str
    started: datetime
    finished: datetime


@dataclass(frozen=True, slots=True)
class Floats:
    """The float model, as every variant is held against it."""

    measured: steps.Measured
    audit: steps.Audit
    compressed_bytes: int


def write_evaluation(
    ready: Ready,
    profile: Profile,
    verdict: Verdict | None,
    candidates: Sequence[Candidate],
    *,
    floats: Floats,
    model: bytes | None,
    files: Mapping[str, str],
    context: Context,
) -> Evaluation:
    """Return the evaluation record of a class."""
    figures = verdict.candidate.figures if verdict else None
    scored = verdict.scored if verdict else None
    known = figures.latency_known if figures else "estimated"
    return Evaluation(
        name=context.name,
        device_class=profile.name,
        recipe=verdict.candidate.recipe.name if verdict else None,
        decision="accepted" if verdict and verdict.accepted else "refused",
        reason=_reason(verdict, candidates, profile, ready.split),
        metric=ready.scored.metric,
        unit=ready.scored.unit,
        samples=len(ready.split.test),
        selection_samples=len(ready.split.selection),
        looks=verdict.looks if verdict else 0,
        reference=_float_side(ready, floats, verdict),
        variant=_side(figures, scored, model) if figures and scored and model else None,
        agreement=scored.agreement if scored else None,
        drop_points=scored.drop_points if scored else None,
        drop_ci95=scored.drop_ci95 if scored else None,
        size_ratio=figures.size_ratio if figures else None,
        latency_ratio=figures.latency_ratio if figures else None,
        latency_known=known,
        peak_memory_ratio=figures.memory_ratio if figures else None,
        golden=_thresholds(ready, profile, verdict),
        golden_measured=verdict.processors if verdict else (),
        requires=profile.requirements(),
        limits=profile.limits(),
        session=profile.session,
        labels=context.labels,
        files=dict(files),
        baselines=scored.baselines if scored else None,
        notes=_notes(ready, verdict),
        provenance=_provenance(ready, profile, verdict, context),
    )


def write_story(
    ready: Ready,
    climb: Climb,
    verdict: Verdict | None,
    *,
    floats: Floats,
    histograms: Sequence[Histogram],
    variant_audit: steps.Audit | None,
    context: Context,
    seconds: float,
) -> Story:
    """Return what was tried for a class, and why."""
    on_front = {id(one) for one in front(climb.candidates)}
    taken = verdict.candidate.recipe if verdict and verdict.accepted else None
    trained = verdict.variant.trained if verdict else None
    spared = dict(verdict.candidate.recipe.overrides) if verdict else {}
    kind = verdict.candidate.recipe.kind if verdict else "static"
    sensed = climb.facts.sensed or ()
    return Story(
        name=context.name,
        device_class=climb.profile.name,
        metric=ready.scored.metric,
        unit=ready.scored.unit,
        seconds=round(seconds, 2),
        reference_score=ready.scored.score,
        reference_bytes=ready.source.bytes,
        tried=tuple(
            _tried(
                one,
                climb.profile,
                on_front=id(one) in on_front,
                taken=one.recipe == taken,
            )
            for one in climb.candidates
        ),
        said=tuple(climb.said),
        allowed=_allowed(ready, climb.profile),
        sensitivity=tuple(
            SensitiveNode(
                name=one.name,
                operator=one.operator,
                sqnr_db=one.sqnr_db,
                bytes=one.bytes,
                treatment=spared.get(one.name, kind),
            )
            for one in sensed
        ),
        histograms=tuple(histograms),
        float_time=_times(floats.audit),
        variant_time=_times(variant_audit) if variant_audit else (),
        training=tuple(
            TrainingPoint(step=p.step, loss=p.loss, agreement=p.agreement)
            for p in (trained.curve if trained else ())
        ),
    )


def compressed_bytes(data: bytes) -> int:
    """Return the size of ``data`` by zlib."""
    state, size = zlib.compressobj(6), 0
    view = memoryview(data)
    for start in range(0, len(view), BLOCK):
        size += len(state.compress(view[start : start + BLOCK]))
    return size + len(state.flush())


def _allowed(ready: Ready, profile: Profile) -> Allowed:
    budget, labelled = profile.budget, ready.scored.labelled
    return Allowed(
        drop_points=budget.accuracy_drop_points if labelled else None,
        agreement=None if labelled else budget.min_agreement,
        size_ratio=budget.size_ratio,
        latency_ratio=budget.latency_ratio,
        latency_ms=budget.latency_ms,
        memory_mb=budget.memory_mb,
    )


def _reason(
    verdict: Verdict | None,
    candidates: Sequence[Candidate],
    profile: Profile,
    split: Split,
) -> str:
    if verdict is None:
        return blame(None, candidates, profile)
    figures = verdict.candidate.figures
    assert figures is not None, "only measured candidates get a verdict"
    if not verdict.accepted and verdict.fitted:
        told = "; ".join(verdict.broken)
        return (
            f"met the budget of {profile.name} on the samples that chose it, not on "
            f"others: {told}"
        )
    if not verdict.accepted:
        return blame(verdict.candidate, candidates, profile)
    count = sum(fits(one, profile) for one in candidates)
    told = praise(verdict.candidate, max(count, 1), profile)
    return f"{told}, {_kept(verdict, split)}{_after(verdict)}"


def _kept(verdict: Verdict, split: Split) -> str:
    scored, reference = verdict.scored, verdict.reference
    where = "unseen samples" if split.separate else "the samples that chose it"
    if not scored.labelled:
        return f"agrees with float on {100 * scored.agreement:.1f} % of {where}"
    if scored.unit == "%":
        return (
            f"{scored.metric} {100 * scored.score:.1f} % against "
            f"{100 * reference.score:.1f} % on {where}"
        )
    return (
        f"{scored.metric} {scored.score:.4g} against {reference.score:.4g} on {where}"
    )


def _after(verdict: Verdict) -> str:
    if verdict.looks == 1:
        return ""
    return f"; look {verdict.looks} at them, after {'; '.join(verdict.broken)}"


def _thresholds(ready: Ready, profile: Profile, verdict: Verdict | None) -> Golden:
    vectors = ready.vectors[profile.golden.count]
    accepted = verdict is not None and verdict.accepted
    limit = tolerance(verdict.processors) if verdict and accepted else None
    return golden.thresholds(vectors.expected, vectors.scale, limit, profile.golden)


def _float_side(ready: Ready, floats: Floats, verdict: Verdict | None) -> Side:
    scored = verdict.reference if verdict else ready.scored
    figures = verdict.candidate.figures if verdict else None
    times = Latency(**floats.measured.times.model_dump())
    return Side(
        score=scored.score,
        ci95=scored.ci95,
        bytes=ready.source.bytes,
        compressed_bytes=floats.compressed_bytes,
        latency=figures.reference_latency if figures else times,
        peak_memory_mb=floats.measured.peak_memory_mb,
        load_ms=floats.measured.load_ms,
        kernels=kernels_of(floats.audit),
        classes=_classes(scored),
    )


def _side(figures: Figures, scored: steps.Scored, model: bytes) -> Side:
    return Side(
        score=scored.score,
        ci95=scored.ci95,
        bytes=figures.bytes,
        compressed_bytes=compressed_bytes(model),
        latency=figures.latency,
        peak_memory_mb=figures.peak_memory_mb,
        load_ms=figures.load_ms,
        kernels=figures.kernels,
        classes=_classes(scored),
    )


def _classes(scored: steps.Scored) -> tuple[ClassScore, ...]:
    return tuple(
        ClassScore(name=one.name, samples=one.samples, score=one.score)
        for one in scored.classes[:MOST_CLASSES]
    )


def _notes(ready: Ready, verdict: Verdict | None) -> tuple[str, ...]:
    if verdict is None:
        return ready.notes
    return (
        *ready.notes,
        *verdict.variant.notes,
        *verdict.scored.notes,
        *verdict.notes,
    )


def _provenance(
    ready: Ready, profile: Profile, verdict: Verdict | None, context: Context
) -> Provenance:
    recipe = verdict.candidate.recipe if verdict else None
    settings = asdict(recipe) if recipe else {}
    overrides = settings.pop("overrides", ())
    if "repairs" in settings:
        settings["repairs"] = ",".join(settings["repairs"])
    return Provenance(
        model_sha256=ready.source.sha256,
        calibration_sha256=ready.calibration.loaded.sha256,
        evaluation_sha256=ready.evaluation.loaded.sha256,
        calibration_samples=ready.calibration.loaded.count,
        seed=context.seed,
        settings=settings,
        overrides=overrides,
        versions=dict(context.versions),
        machine_isa=context.isa,
        profile_sha256=profile.sha256,
        invocation=context.invocation,
        started=context.started,
        finished=context.finished,
    )


def _tried(one: Candidate, profile: Profile, *, on_front: bool, taken: bool) -> Tried:
    told = Tried(
        recipe=one.recipe.name,
        rung=one.rung,
        why=one.why,
        failure=one.failure,
        on_front=on_front,
        taken=taken,
    )
    figures = one.figures
    if figures is None:
        return told
    found: dict[str, object] = {
        "misses": tuple(miss.sentence for miss in misses(figures, profile)),
        "score": figures.score,
        "drop_points": figures.drop_points,
        "agreement": figures.agreement,
        "bytes": figures.bytes,
        "size_ratio": figures.size_ratio,
        "latency": figures.latency,
        "latency_ratio": figures.latency_ratio,
        "peak_memory_mb": figures.peak_memory_mb,
        "peak_memory_ratio": figures.memory_ratio,
        "kernels": figures.kernels,
        "treated": dict(figures.treated),
    }
    return told.model_copy(update=found)


def _times(audit: steps.Audit) -> tuple[TimeShare, ...]:
    return tuple(
        TimeShare(
            operator=one.operator,
            count=one.count,
            share=one.share,
            integer=one.integer,
        )
        for one in audit.kernels
    )
