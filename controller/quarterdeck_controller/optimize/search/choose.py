"""Which candidate a device class gets, and why. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from quarterdeck_controller.optimize.golden import least_agreement
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures

TELLS = 0.05
"""A latency ratio up to a twentieth past its limit is not told apart from it."""
TIE = 0.1
"""Latencies within a tenth of the best are equal when candidates are compared."""
SIZE_TIE = 0.1
MEMORY_TIE = 0.05

Axis = Callable[[Figures], float]
Kind = Literal["quality", "size", "latency", "memory", "golden"]


@dataclass(frozen=True, slots=True)
class Miss:
    """A part of the budget that was not met.

    Attributes:
        kind: Which part.
        excess: How many times the budget was used, to compare misses.
        sentence: Both values, for people.
    """

    kind: Kind
    excess: float
    sentence: str


def misses(figures: Figures, profile: Profile) -> tuple[Miss, ...]:
    """Return every part of the budget that a measured candidate does not meet."""
    budget = profile.budget
    found = (
        _quality(figures, profile),
        _at_most("size", "size", figures.size_ratio, budget.size_ratio, " of float"),
        _slower(figures, profile),
        _at_most(
            "latency", "p90 latency", figures.latency.p90_ms, budget.latency_ms, " ms"
        ),
        _at_most(
            "memory",
            "peak memory",
            figures.peak_memory_mb,
            float(budget.memory_mb),
            " MiB",
        ),
        _at_most(
            "golden",
            "error on the golden vectors",
            figures.golden_error,
            profile.golden.max_error,
            " of the scores",
        ),
        _at_least(
            "golden",
            "agreement on the golden vectors",
            figures.golden_agreement,
            least_agreement(figures.golden_clear, profile.golden),
        ),
    )
    return tuple(miss for miss in found if miss is not None)


def fits(candidate: Candidate, profile: Profile) -> bool:
    """Return whether a candidate was measured and meets the whole budget."""
    return candidate.figures is not None and not misses(candidate.figures, profile)


def best(candidates: Sequence[Candidate], profile: Profile) -> Candidate | None:
    """Return the one of those within the budget that the class prefers."""
    fitting = [one for one in candidates if fits(one, profile)]
    if not fitting:
        return None
    for key, tie in _order(profile):
        least = min(key(_figures(one)) for one in fitting)
        fitting = [
            one for one in fitting if key(_figures(one)) <= least * (1 + tie) + 1e-12
        ]
    return min(fitting, key=_last)


def next_to_confirm(
    candidates: Sequence[Candidate],
    failed: Sequence[Candidate],
    profile: Profile,
    *,
    last: bool,
) -> Candidate | None:
    """Return which candidate to hold against unseen samples next.

    After a failure only those closer to float than what failed are left, and the last
    look is for the closest of all.

    Args:
        candidates: All that were tried.
        failed: Those that did not hold.
        profile: The class.
        last: Whether no further look will be taken.
    """
    limit = min((_figures(one).golden_error for one in failed), default=None)
    left = [
        one
        for one in candidates
        if fits(one, profile) and (limit is None or _figures(one).golden_error < limit)
    ]
    if last:
        return min(left, key=lambda one: _figures(one).golden_error, default=None)
    return best(left, profile)


def nearest(candidates: Sequence[Candidate], profile: Profile) -> Candidate | None:
    """Return the one that misses the budget by least; None when none was measured."""
    measured = [one for one in candidates if one.figures is not None]
    return min(measured, key=lambda one: _distance(one, profile), default=None)


def front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return those that no other beats in accuracy, size and latency together."""
    measured = [one for one in candidates if one.figures is not None]
    return tuple(
        one for one in measured if not any(_dominates(o, one) for o in measured)
    )


def praise(candidate: Candidate, among: int, profile: Profile) -> str:
    """Return why an accepted candidate was taken, with the numbers."""
    figures = _figures(candidate)
    told = "the only one" if among == 1 else f"best by {profile.prefer} of {among}"
    return (
        f"{candidate.recipe.name}: {told} within the budget, "
        f"{figures.size_ratio:.2f} of float's size, "
        f"{figures.latency_ratio:.2f} of its latency"
    )


def blame(candidate: Candidate | None, tried: Sequence[Candidate], who: Profile) -> str:
    """Return why nothing was accepted, with the nearest miss."""
    if candidate is None:
        told = "; ".join(f"{one.recipe.name}: {one.failure}" for one in tried)
        return f"no recipe gave a model that runs: {told or 'none applies'}"
    told = "; ".join(miss.sentence for miss in misses(_figures(candidate), who))
    return (
        f"no recipe meets the budget of {who.name}; the nearest, "
        f"{candidate.recipe.name}: {told}"
    )


def _quality(figures: Figures, profile: Profile) -> Miss | None:
    if not figures.labelled:
        return _at_least(
            "quality",
            "agreement with float",
            figures.agreement,
            profile.budget.min_agreement,
        )
    drop, limit = figures.drop_points, profile.budget.accuracy_drop_points
    # a hair of room, so that rounding does not refuse a drop equal to the budget
    if drop <= limit + 1e-9:
        return None
    return Miss(
        "quality",
        drop / max(limit, 0.1),
        f"{figures.metric} {_score(figures.score, figures)} is {drop:.1f} points below "
        f"float's {_score(figures.reference_score, figures)}, at most {limit:g} "
        f"allowed (n={figures.samples})",
    )


def _slower(figures: Figures, profile: Profile) -> Miss | None:
    limit = profile.budget.latency_ratio
    if figures.latency_ratio <= limit * (1 + TELLS):
        return None
    return Miss(
        "latency",
        figures.latency_ratio / limit,
        f"median latency {figures.latency_ratio:.2f} of float, at most {limit:g} of "
        "float allowed",
    )


def _score(value: float, figures: Figures) -> str:
    return f"{100 * value:.1f} %" if figures.unit == "%" else f"{value:.4g}"


def _at_most(
    kind: Kind, what: str, value: float, limit: float, unit: str
) -> Miss | None:
    if value <= limit:
        return None
    told = f"{what} {value:.3g}{unit}, at most {limit:g}{unit} allowed"
    return Miss(kind, value / limit, told)


def _at_least(kind: Kind, what: str, value: float, limit: float) -> Miss | None:
    if value >= limit:
        return None
    return Miss(
        kind,
        (1 - value) / max(1 - limit, 0.001),
        f"{what} {100 * value:.1f} %, at least {100 * limit:g} % asked",
    )


def _distance(candidate: Candidate, profile: Profile) -> tuple[float, int, str]:
    found = misses(_figures(candidate), profile)
    worst = max((miss.excess for miss in found), default=0.0)
    return worst, len(found), candidate.recipe.name


def _order(profile: Profile) -> tuple[tuple[Axis, float], ...]:
    latency: tuple[Axis, float] = (lambda figures: figures.latency_ratio, TIE)
    size: tuple[Axis, float] = (lambda figures: figures.size_ratio, SIZE_TIE)
    memory: tuple[Axis, float] = (lambda figures: figures.memory_ratio, MEMORY_TIE)
    return {
        "latency": (latency, size),
        "size": (size, latency),
        "memory": (memory, size, latency),
    }[profile.prefer]


def _dominates(one: Candidate, other: Candidate) -> bool:
    first, second = _axes(one), _axes(other)
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def _last(candidate: Candidate) -> tuple[float, float, str]:
    """Return what decides among equals: accuracy, speed, and then only order."""
    figures = _figures(candidate)
    return (
        round(figures.loss, 1),
        round(figures.latency_ratio, 2),
        candidate.recipe.name,
    )


def _axes(candidate: Candidate) -> tuple[float, float, float]:
    figures = _figures(candidate)
    return figures.loss, figures.size_ratio, figures.latency_ratio


def _figures(candidate: Candidate) -> Figures:
    assert candidate.figures is not None, "only measured candidates are compared"
    return candidate.figures
