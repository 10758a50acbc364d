"""Two evaluations side by side, and which is better by what. Pure.

Scores are held against each other only when both come from the same samples, judged by
the same metric; latencies as shares of float's only when both are of the same float
model, and otherwise in milliseconds, when the same kind of machine measured them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from quarterdeck_controller.optimize.evaluation import Evaluation, Side
from quarterdeck_controller.optimize.report import wording
from quarterdeck_controller.optimize.search.story import Story

LATENCY_TIE = 0.1
SIZE_TIE = 0.01
MEMORY_TIE = 0.05
"""Ratios of two figures up to so far from one are not told apart."""
MOST_KERNELS = 12
ALIKE = "="

N = TypeVar("N", int, float)
Compared = tuple[Evaluation, Story | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of both, and what became of it; each may be empty."""

    what: str
    a: str
    b: str
    change: str = ""


@dataclass(frozen=True, slots=True)
class ClassChange:
    """The score of one class in both."""

    name: str
    samples: int
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two evaluations.

    Attributes:
        lines: The figures, in the order people ask for them.
        classes: Classes whose score differs, the greatest loss first; empty when the
            scores cannot be compared.
        differences: What differs in what went in, as sentences.
        warnings: What cannot be compared, and why.
        verdict: In a sentence, what B is in comparison with A.
    """

    a_class: str
    b_class: str
    lines: tuple[Line, ...]
    classes: tuple[ClassChange, ...]
    differences: tuple[str, ...]
    warnings: tuple[str, ...]
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """Return it as what ``--json`` prints."""
        return asdict(self)


def compare(a: Compared, b: Compared) -> Comparison:
    """Return B held against A."""
    first, second = a[0], b[0]
    return Comparison(
        a_class=first.device_class,
        b_class=second.device_class,
        lines=tuple(line for line in _lines(a, b) if line.a or line.b),
        classes=_classes(first, second),
        differences=tuple(_differences(first, second)),
        warnings=tuple(_warnings(first, second)),
        verdict=_verdict(first, second),
    )


def same_scores(a: Evaluation, b: Evaluation) -> bool:
    """Return whether the scores are of the same samples by the same metric."""
    return not list(_unlike_scores(a, b))


def _lines(a: Compared, b: Compared) -> Iterator[Line]:
    first, second = a[0], b[0]
    yield Line("decision", first.decision, second.decision)
    yield from _judged(first, second)
    yield from _costs(first, second)
    yield from _kernels(first, second)
    yield from _types(a[1], b[1])
    yield from _processors(first, second)
    if a[1] is not None and b[1] is not None:
        yield Line("candidates tried", str(len(a[1].tried)), str(len(b[1].tried)))
        yield Line("search, s", f"{a[1].seconds:.0f}", f"{b[1].seconds:.0f}")


def _judged(a: Evaluation, b: Evaluation) -> Iterator[Line]:
    lost = _lost_more(a, b)
    change = "" if lost is None else f"{wording.signed(-lost)} points"
    yield Line(f"score, {a.metric}", _score(a), _score(b), change)
    yield Line("95 % interval", _interval(a), _interval(b))
    yield Line("float's score", _float_score(a), _float_score(b))
    yield Line("points lost", _drop(a), _drop(b))
    yield Line("their interval", _drop_interval(a), _drop_interval(b))
    yield Line("agrees with float", _agreement(a), _agreement(b))


def _costs(a: Evaluation, b: Evaluation) -> Iterator[Line]:
    sides = (a.variant, b.variant)
    yield _line("size", [one.bytes if one else None for one in sides], wording.size)
    yield Line("of float", _ratio(a.size_ratio), _ratio(b.size_ratio))
    packed = [one.compressed_bytes if one else None for one in sides]
    yield _line("compressed", packed, wording.size)
    for name, key in (("p50", 0), ("p90", 1), ("p99", 2), ("processor", 3)):
        times = [_times(one)[key] if one else None for one in sides]
        yield _line(f"{name}, ms", times, wording.milliseconds)
    yield _line("p50 of float", [a.latency_ratio, b.latency_ratio], _ratio)
    yield Line("known", a.latency_known, b.latency_known)
    yield _line(
        "peak memory, MiB", [one.peak_memory_mb if one else None for one in sides]
    )
    yield _line("loads in, ms", [one.load_ms if one else None for one in sides])


def _line(
    what: str,
    values: Sequence[N | None],
    told: Callable[[N], str] = lambda value: f"{value:.0f}",
) -> Line:
    was, now = values
    first, second = ("" if one is None else told(one) for one in values)
    return Line(what, first, second, _relative(was, now))


def _kernels(a: Evaluation, b: Evaluation) -> Iterator[Line]:
    before = a.variant.kernels if a.variant else None
    after = b.variant.kernels if b.variant else None
    if before is None or after is None:
        return
    yield Line("integer kernels", str(before.integer), str(after.integer))
    yield Line("heavy float kernels", str(before.heavy_float), str(after.heavy_float))
    yield Line("q/dq kernels", str(before.conversions), str(after.conversions))
    was, now = before.conversion_share, after.conversion_share
    yield Line("their time, %", wording.percent(was), wording.percent(now))


def _types(a: Story | None, b: Story | None) -> Iterator[Line]:
    """Yield the types of kernels whose number differs."""
    if a is None or b is None:
        return
    before, after = (
        {one.operator: one.count for one in story.variant_time} for story in (a, b)
    )
    names = [
        name
        for name in sorted({**before, **after})
        if before.get(name, 0) != after.get(name, 0)
    ]
    for name in names[:MOST_KERNELS]:
        yield Line(f"{name} kernels", str(before.get(name, 0)), str(after.get(name, 0)))


def _processors(a: Evaluation, b: Evaluation) -> Iterator[Line]:
    before, after = (
        {one.processor: f"{one.sqnr_db:.1f}" for one in evaluation.golden_measured}
        for evaluation in (a, b)
    )
    for name in {**before, **after}:
        yield Line(f"dB to float, {name}", before.get(name, ""), after.get(name, ""))


def _classes(a: Evaluation, b: Evaluation) -> tuple[ClassChange, ...]:
    if a.variant is None or b.variant is None or not same_scores(a, b):
        return ()
    after = {one.name: one for one in b.variant.classes}
    changed = [
        ClassChange(one.name, one.samples, one.score, after[one.name].score)
        for one in a.variant.classes
        if one.name in after and one.score != after[one.name].score
    ]
    sign = -1 if _lower_is_better(a, b) else 1
    return tuple(sorted(changed, key=lambda one: sign * (one.b - one.a)))


def _warnings(a: Evaluation, b: Evaluation) -> Iterator[str]:
    unlike = list(_unlike_scores(a, b))
    if unlike:
        yield f"the scores cannot be compared: {'; '.join(unlike)}"
    if a.device_class != b.device_class:
        yield (
            f"they are for different classes, {a.device_class} and {b.device_class}: "
            "budgets, kernels and what is measured differ"
        )
    if _isa(a) != _isa(b):
        yield "milliseconds come from machines with different instruction sets"
    if a.latency_known != b.latency_known:
        yield f"A's latency is {a.latency_known}, B's is {b.latency_known}"


def _unlike_scores(a: Evaluation, b: Evaluation) -> Iterator[str]:
    if a.provenance.evaluation_sha256 != b.provenance.evaluation_sha256:
        yield "the evaluation data differ"
    elif (a.provenance.seed, a.samples) != (b.provenance.seed, b.samples):
        yield (
            f"other samples of the same data judged (seed {a.provenance.seed}, "
            f"n={a.samples} against seed {b.provenance.seed}, n={b.samples})"
        )
    if (a.metric, a.unit) != (b.metric, b.unit):
        yield f"A is judged by {a.metric}, B by {b.metric}"


def _differences(a: Evaluation, b: Evaluation) -> Iterator[str]:
    first, second = a.provenance, b.provenance
    for what, was, now in (
        ("float model", first.model_sha256, second.model_sha256),
        ("calibration data", first.calibration_sha256, second.calibration_sha256),
        ("evaluation data", first.evaluation_sha256, second.evaluation_sha256),
    ):
        if was != now:
            yield f"{what}: {was[:12]} became {now[:12]}"
    if first.seed != second.seed:
        yield f"seed: {first.seed} became {second.seed}"
    pairs = (
        (first.settings, second.settings),
        (first.versions, second.versions),
        (a.session.model_dump(), b.session.model_dump()),
    )
    for before, after in pairs:
        yield from _changed(before, after)
    spared = set(first.overrides) ^ set(second.overrides)
    if spared:
        count = len({name for name, _ in spared})
        yield f"{count} operators have another treatment of their own"
    if _isa(a) != _isa(b):
        yield f"machine: {' '.join(_isa(a))} became {' '.join(_isa(b))}"


def _changed(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted({**before, **after}):
        was, now = before.get(key, "-"), after.get(key, "-")
        if was != now:
            yield f"{key}: {_said(was)} became {_said(now)}"


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or "none"


def _verdict(a: Evaluation, b: Evaluation) -> str:
    if a.variant is None or b.variant is None:
        without = [n for n, one in (("A", a), ("B", b)) if one.variant is None]
        return f"nothing to compare: no variant in {' and '.join(without)}"
    digest = a.files.get("model.onnx")
    told = _decided(a, b)
    if digest is not None and digest == b.files.get("model.onnx"):
        return "; ".join([*told, "the same model, byte for byte"])
    better, worse, alike = _sorted_out(a, b, a.variant, b.variant)
    if better:
        told.append(f"B is better: {', '.join(better)}")
    if worse:
        told.append(f"{'but worse' if better else 'B is worse'}: {', '.join(worse)}")
    if alike:
        told.append(f"not told apart: {', '.join(alike)}")
    return "; ".join(told)


def _decided(a: Evaluation, b: Evaluation) -> list[str]:
    if a.decision == b.decision:
        return []
    return [f"A was {a.decision}, B {b.decision}"]


def _sorted_out(
    a: Evaluation, b: Evaluation, before: Side, after: Side
) -> tuple[list[str], list[str], list[str]]:
    """Return in what B is better than A, in what worse, and in what neither."""
    better, worse, alike = list[str](), list[str](), list[str]()
    lost = _lost_more(a, b)
    if lost is not None:
        told = f"{abs(lost):.1f} points of {a.metric}"
        apart = abs(lost) >= wording.LEAST_POINT and not _overlap(before, after)
        group = alike if not apart else worse if lost > 0 else better
        group.append(told if apart else f"accuracy ({wording.signed(-lost)} points)")
    p50 = (before.latency.p50_ms, after.latency.p50_ms)
    if _same_float(a, b) and a.latency_ratio and b.latency_ratio:
        p50 = (a.latency_ratio, b.latency_ratio)
    for what, pair, tie in (
        ("latency", p50, LATENCY_TIE),
        ("size", (float(before.bytes), float(after.bytes)), SIZE_TIE),
        ("memory", (before.peak_memory_mb, after.peak_memory_mb), MEMORY_TIE),
    ):
        group = _group(*pair, tie, (better, worse, alike))
        group.append(what if group is alike else f"{what} {_relative(*pair)}")
    return better, worse, alike


def _group(
    was: float, now: float, tie: float, groups: tuple[list[str], list[str], list[str]]
) -> list[str]:
    better, worse, alike = groups
    if now * (1 + tie) < was:
        return better
    return worse if now > was * (1 + tie) else alike


def _lost_more(a: Evaluation, b: Evaluation) -> float | None:
    """Return how many points B lost more than A; None when that cannot be told."""
    if not same_scores(a, b) or a.variant is None or b.variant is None:
        return None
    if _same_float(a, b) and a.drop_points is not None and b.drop_points is not None:
        return b.drop_points - a.drop_points
    scale = 100 if a.unit == "%" else 1
    sign = -1 if _lower_is_better(a, b) else 1
    return sign * scale * (a.variant.score - b.variant.score)


def _lower_is_better(a: Evaluation, b: Evaluation) -> bool:
    """Return whether the score counts what is wrong, as far as the figures show it."""
    for one in (a, b):
        if one.variant is None or not one.drop_points:
            continue
        return (one.variant.score > one.reference.score) == (one.drop_points > 0)
    return False


def _overlap(a: Side, b: Side) -> bool:
    """Return whether either score lies in the other's interval."""
    return a.ci95[0] <= b.score <= a.ci95[1] or b.ci95[0] <= a.score <= b.ci95[1]


def _same_float(a: Evaluation, b: Evaluation) -> bool:
    return a.provenance.model_sha256 == b.provenance.model_sha256


def _isa(one: Evaluation) -> tuple[str, ...]:
    return one.provenance.machine_isa


def _relative(was: float | None, now: float | None) -> str:
    if not was or now is None:
        return ""
    change = 100 * (now / was - 1)
    return f"{change:+.0f} %" if round(change) else ALIKE


def _score(one: Evaluation) -> str:
    return wording.with_unit(one.variant.score, one.unit) if one.variant else ""


def _float_score(one: Evaluation) -> str:
    return wording.with_unit(one.reference.score, one.unit)


def _interval(one: Evaluation) -> str:
    return wording.interval(one.variant.ci95, one.unit) if one.variant else ""


def _drop(one: Evaluation) -> str:
    return "" if one.drop_points is None else wording.points(one.drop_points)


def _drop_interval(one: Evaluation) -> str:
    if one.drop_ci95 is None:
        return ""
    return " to ".join(wording.points(end) for end in one.drop_ci95)


def _agreement(one: Evaluation) -> str:
    return "" if one.agreement is None else f"{wording.percent(one.agreement)} %"


def _times(side: Side) -> tuple[float, float, float, float]:
    times = side.latency
    return times.p50_ms, times.p90_ms, times.p99_ms, times.cpu_ms


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
