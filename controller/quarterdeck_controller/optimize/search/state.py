"""What the ladder looks at, and which candidate is worth mending. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quarterdeck_controller.optimize.profile import (
    Profile,
)
from quarterdeck_controller.optimize.recipe import (
    TUNING_REPAIRS,
    Kind,
    Recipe,
    Repair,
    Treatment,
)
from quarterdeck_controller.optimize.search.candidate import (
    Candidate,
    Figures,
)
from quarterdeck_controller.optimize.search.choose import (
    TIE,
    best,
    misses,
)
from quarterdeck_controller.optimize.search.story import (
    Rung,
)
from quarterdeck_controller.optimize.steps import (
    Node,
    Sensitivity,
)

LINEAR = frozenset({"MatMul", "Gemm"})
HALF: Treatment = "half"
GAIN = 1 / (1 + TIE)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ladder knows beside what was tried.

    Attributes:
        nodes: What can be given a treatment.
        kinds: What may be tried: the profile's, or fewer when the operator said so.
        qat: Whether training was asked for.
        sensed: The operators worst first, once they were looked at.
        floor_sensed: The same when their weights alone are quantized.
    """

    nodes: tuple[Node, ...]
    kinds: tuple[Kind, ...]
    qat: bool = False
    sensed: tuple[Sensitivity, ...] | None = None
    floor_sensed: tuple[Sensitivity, ...] | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """What to do next, and why.

    Attributes:
        recipes: Candidates to try.
        sense: The recipe by which every operator is looked at alone.
    """

    rung: Rung
    why: str
    recipes: tuple[Recipe, ...] = ()
    sense: Recipe | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a rung has nothing (more) to do."""

    rung: Rung
    why: str


@dataclass(frozen=True, slots=True)
class State:
    """What was tried, and what else is known."""

    seen: tuple[Candidate, ...]
    facts: Facts
    profile: Profile

    @property
    def tried(self) -> frozenset[Recipe]:
        """Return every recipe that was tried."""
        return frozenset(one.recipe for one in self.seen)

    def missing(self, recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
        """Return those of ``recipes`` that were not tried yet."""
        return tuple(one for one in dict.fromkeys(recipes) if one not in self.tried)

    def measured(self, kind: Kind) -> list[Candidate]:
        """Return the candidates of a kind that ran."""
        return [one for one in self.seen if one.figures and one.recipe.kind == kind]


def leading(state: State) -> tuple[Candidate | None, str]:
    """Return the static candidate worth mending, and why it is or why none is."""
    static = state.measured("static")
    if not static:
        return None, "no integer candidate runs"
    taken = best(state.seen, state.profile)
    if taken and taken.recipe.kind == "static":
        return None, f"{taken.recipe.name} meets the budget"
    willing = [one for one in static if mendable(one, state.profile)]
    if not willing:
        return None, "integers miss more than accuracy: no repair would help"
    promising = [one for one in willing if taken is None or pays(one, taken, state)]
    if not promising:
        assert taken is not None
        return None, f"{taken.recipe.name} meets the budget and integers gain nothing"
    lead = min(promising, key=lambda one: (figures_of(one).loss, one.recipe.name))
    if taken is None:
        told = "nothing meets the budget"
    else:
        told = f"{lead.recipe.name} would beat {taken.recipe.name}"
    told = f"{told}, but {shortfall(lead, state.profile)}"
    return lead, told


def mendable(candidate: Candidate, profile: Profile) -> bool:
    """Return whether it runs and misses accuracy alone."""
    return candidate.figures is not None and all(
        miss.kind in ("quality", "golden")
        for miss in misses(figures_of(candidate), profile)
    )


def shortfall(candidate: Candidate, profile: Profile) -> str:
    """Return the first part of the budget that a candidate misses, as a sentence."""
    found = misses(figures_of(candidate), profile)
    return found[0].sentence if found else "meets the budget"


def pays(candidate: Candidate, taken: Candidate, state: State) -> bool:
    """Return whether ``candidate``, were it right, would be preferred by far."""
    new, old = figures_of(candidate), figures_of(taken)
    by = {
        "latency": (new.latency_ratio, old.latency_ratio),
        "size": (new.size_ratio, old.size_ratio),
        "memory": (new.memory_ratio, old.memory_ratio),
    }
    gained, had = by[state.profile.prefer]
    if gained < had * GAIN:
        return True
    # a class that prefers size or memory still likes a faster one that is no larger
    return gained <= had * 1.02 and new.latency_ratio < old.latency_ratio * GAIN


def bare(recipe: Recipe) -> Recipe:
    """Return ``recipe`` without what mends it."""
    return replace(recipe, overrides=(), repairs=(), trained=False)


def untuned(recipe: Recipe) -> Recipe:
    """Return ``recipe`` without what is made after the graph was quantized."""
    return replace(recipe, repairs=graph_repairs_of(recipe), trained=False)


def graph_repairs_of(recipe: Recipe) -> tuple[Repair, ...]:
    """Return the repairs of ``recipe`` that are made on the float graph."""
    return tuple(one for one in recipe.repairs if one not in TUNING_REPAIRS)


def figures_of(candidate: Candidate) -> Figures:
    """Return the figures of a measured candidate."""
    assert candidate.figures is not None, "only measured candidates are compared"
    return candidate.figures
