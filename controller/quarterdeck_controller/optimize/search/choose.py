"""Which candidate a device class gets, and why. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from quarterdeck_controller.optimize.evaluation import Latency, Metric
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.recipe import Recipe

TIE = 0.1
"""Latencies within a tenth of the best are equal: a measurement tells no more."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a candidate, against float in the same run."""

    metric: Metric
    samples: int
    score: float
    reference_score: float
    agreement: float
    bytes: int
    reference_bytes: int
    latency: Latency
    reference_latency: Latency
    peak_memory_mb: float
    reference_peak_memory_mb: float
    golden_agreement: float
    golden_error: float

    @property
    def drop_points(self) -> float:
        """Percentage points of score below float."""
        return 100 * (self.reference_score - self.score)

    @property
    def size_ratio(self) -> float:
        """Bytes as a share of float's."""
        return self.bytes / self.reference_bytes

    @property
    def latency_ratio(self) -> float:
        """Median latency as a share of float's."""
        return self.latency.p50_ms / self.reference_latency.p50_ms


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that was tried: its figures, or why there are none."""

    recipe: Recipe
    figures: Figures | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Miss:
    """A part of the budget that was not met.

    Attributes:
        excess: How many times the budget was used, to compare misses.
        sentence: Both values, for people.
    """

    excess: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision for one class.

    Attributes:
        candidate: The one taken, or the nearest miss when refused; None when no
            candidate could be measured.
        reason: Why, with the numbers.
    """

    accepted: bool
    candidate: Candidate | None
    reason: str


def choose(candidates: Sequence[Candidate], profile: Profile) -> Choice:
    """Return the best candidate within the class's budget, or the nearest miss."""
    measured = [c for c in candidates if c.figures is not None]
    if not measured:
        told = "; ".join(f"{c.recipe.name}: {c.failure}" for c in candidates)
        return _refuse(None, f"no recipe gave a model that runs: {told}")
    fitting = [c for c in measured if not misses(c, profile)]
    if not fitting:
        nearest = min(measured, key=lambda c: _distance(c, profile))
        told = "; ".join(miss.sentence for miss in misses(nearest, profile))
        return _refuse(
            nearest,
            f"no recipe meets the budget of {profile.name}; the nearest, "
            f"{nearest.recipe.name}: {told}",
        )
    best = _best(fitting, profile)
    reason = _praise(best, len(fitting), profile)
    return Choice(accepted=True, candidate=best, reason=reason)


def misses(candidate: Candidate, profile: Profile) -> tuple[Miss, ...]:
    """Return every part of the budget that a measured candidate does not meet."""
    figures = _figures(candidate)
    found = [
        _quality(figures, profile),
        _at_most("size", figures.size_ratio, profile.budget.size_ratio, " of float"),
        _at_most(
            "median latency",
            figures.latency_ratio,
            profile.budget.latency_ratio,
            " of float",
        ),
        _at_most(
            "p90 latency", figures.latency.p90_ms, profile.budget.latency_ms, " ms"
        ),
        _at_most(
            "peak memory",
            figures.peak_memory_mb,
            float(profile.budget.memory_mb),
            " MiB",
        ),
        _at_most(
            "error on the golden vectors",
            figures.golden_error,
            profile.golden.max_error,
            " of the scores",
        ),
        _at_least(
            "agreement on the golden vectors",
            figures.golden_agreement,
            profile.golden.min_agreement,
        ),
    ]
    return tuple(miss for miss in found if miss is not None)


def _refuse(nearest: Candidate | None, reason: str) -> Choice:
    return Choice(accepted=False, candidate=nearest, reason=reason)


def _quality(figures: Figures, profile: Profile) -> Miss | None:
    if figures.metric != "top1":
        return _at_least(
            "agreement with float", figures.agreement, profile.budget.min_agreement
        )
    drop, limit = figures.drop_points, profile.budget.accuracy_drop_points
    # a hair of room, so that rounding does not refuse a drop equal to the budget
    if drop <= limit + 1e-9:
        return None
    return Miss(
        drop / max(limit, 0.1),
        f"accuracy {100 * figures.score:.1f} % is {drop:.1f} points below float's "
        f"{100 * figures.reference_score:.1f} %, at most {limit:g} allowed "
        f"(n={figures.samples})",
    )


def _at_most(what: str, value: float, limit: float, unit: str) -> Miss | None:
    if value <= limit:
        return None
    return Miss(
        value / limit, f"{what} {value:.3g}{unit}, at most {limit:g}{unit} allowed"
    )


def _at_least(what: str, value: float, limit: float) -> Miss | None:
    if value >= limit:
        return None
    return Miss(
        (1 - value) / max(1 - limit, 0.001),
        f"{what} {100 * value:.1f} %, at least {100 * limit:g} % asked",
    )


def _distance(candidate: Candidate, profile: Profile) -> tuple[float, int]:
    found = misses(candidate, profile)
    return max(miss.excess for miss in found), len(found)


def _best(fitting: Sequence[Candidate], profile: Profile) -> Candidate:
    def size(candidate: Candidate) -> float:
        return _figures(candidate).size_ratio

    if profile.prefer == "size":
        return min(fitting, key=size)
    quickest = min(_figures(c).latency_ratio for c in fitting)
    tied = [c for c in fitting if _figures(c).latency_ratio <= quickest * (1 + TIE)]
    return min(tied, key=size)


def _praise(best: Candidate, count: int, profile: Profile) -> str:
    figures = _figures(best)
    among = "the only one" if count == 1 else f"best by {profile.prefer} of {count}"
    kept = (
        f"{100 * figures.score:.1f} % right against {100 * figures.reference_score:.1f}"
        if figures.metric == "top1"
        else f"agrees with float on {100 * figures.agreement:.1f} %"
    )
    return (
        f"{best.recipe.name}: {among} within the budget, {figures.size_ratio:.2f} of "
        f"float's size, {figures.latency_ratio:.2f} of its latency, {kept}"
    )


def _figures(candidate: Candidate) -> Figures:
    assert candidate.figures is not None, "only measured candidates are compared"
    return candidate.figures
