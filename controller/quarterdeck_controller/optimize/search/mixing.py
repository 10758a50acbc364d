"""Which operators are spared from integers, and how many. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from quarterdeck_controller.optimize.recipe import (
    Overrides,
    Recipe,
    Treatment,
)
from quarterdeck_controller.optimize.search.choose import (
    best,
    fits,
)
from quarterdeck_controller.optimize.search.state import (
    GAIN,
    HALF,
    LINEAR,
    Move,
    Skip,
    State,
    figures_of,
    leading,
    mendable,
)
from quarterdeck_controller.optimize.steps import (
    Sensitivity,
)

MOST_MIXED = 8
"""Mixtures tried at most."""
SPARED_HALF = 0.04
"""Of all weights, the share that spared operators may keep in half precision: exact
for a hundredth of the size."""
EXACT_DB = 60.0
"""An operator that is quantized to this much signal over noise costs nothing."""
FIRST_SPARED = 16
"""The first mixture spares one operator in so many."""


def mixed(state: State) -> Move | Skip:
    """Spare the operators that cost most, as few as will do."""
    lead, why = leading(state)
    sensed = state.facts.sensed
    taken = best(state.seen, state.profile)
    if lead is None and taken and taken.recipe.overrides:
        lead, why = taken, f"{taken.recipe.name} meets the budget, fewer may"
    if lead is None or not sensed:
        return Skip("mixed", why if lead is None else "no operator stands out")
    if min(node.sqnr_db for node in sensed) > EXACT_DB:
        told = (
            "no operator costs anything on the calibration samples: they are unlike "
            "the evaluation samples"
        )
        return Skip("mixed", told)
    if len([one for one in state.seen if one.rung == "mixed"]) >= MOST_MIXED:
        return Skip("mixed", f"{MOST_MIXED} mixtures were tried")
    base = _plain_base(state)
    counts = _next_counts(state, base, len(sensed))
    if not counts:
        return Skip("mixed", "neither more nor fewer operators in float would pay")
    recipes = tuple(
        replace(base, overrides=_mixture(state, sensed[:count])) for count in counts
    )
    told = " or ".join(str(count) for count in counts)
    told = f"{why}; the worst {told} of {len(sensed)} operators are spared"
    return Move("mixed", told, recipes)


def _plain_base(state: State) -> Recipe:
    """Return the best static recipe that spares no operator and is not trained."""
    whole = [
        one
        for one in state.measured("static")
        if not one.recipe.overrides
        and not one.recipe.trained
        and mendable(one, state.profile)
    ]
    return min(whole, key=lambda one: (figures_of(one).loss, one.recipe.name)).recipe


def _next_counts(state: State, base: Recipe, total: int) -> tuple[int, ...]:
    """Return how many operators to spare next.

    Two doublings at a time until one fits, at most half of all; then what lies between
    the fewest that fit and the most that do not.
    """
    tried = {
        len(one.recipe.overrides): one
        for one in state.seen
        if one.recipe.overrides and replace(one.recipe, overrides=()) == base
    }
    good = [count for count, one in tried.items() if fits(one, state.profile)]
    bad = [count for count in tried if count not in good]
    if not good:
        first = 2 * max(bad) if bad else max(1, total // FIRST_SPARED)
        hopeless = any(not mendable(tried[number], state.profile) for number in bad)
        counts = [] if hopeless else [first, 2 * first]
        return tuple(count for count in counts if count <= max(total // 2, 1))
    low = max((count for count in bad if count < min(good)), default=0)
    between = (low + min(good)) // 2
    return (between,) if between > low else ()


def _mixture(state: State, worst: Sequence[Sensitivity]) -> Overrides:
    linear = _spared(state)
    left = SPARED_HALF * sum(node.bytes for node in state.facts.nodes)
    found: list[tuple[str, Treatment]] = []
    for node in worst:
        if node.operator in LINEAR and linear == "dynamic":
            found.append((node.name, linear))
        elif node.bytes <= left:
            found.append((node.name, HALF))
            left -= node.bytes
        else:
            found.append((node.name, "weights"))
    return tuple(sorted(found))


def _spared(state: State) -> Treatment:
    """Return what spares a matrix product: run-time ranges where these are fast."""
    quick = [
        one for one in state.measured("dynamic") if figures_of(one).latency_ratio < GAIN
    ]
    return "dynamic" if quick and "dynamic" in state.facts.kinds else "weights"
