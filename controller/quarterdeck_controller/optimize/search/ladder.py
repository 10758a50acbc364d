"""What to try next, from cheap to costly, each rung only as far as needed. Pure.

The ladder has no memory of its own: every rung looks at what was tried and wants what
is missing, so a search that was cut off goes on where it was. Rungs above ``static``
are climbed only while that could pay: nothing meets the budget yet, or integers would
be faster (smaller, by the class's preference) than what meets it but lose too much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.recipe import (
    TUNING_REPAIRS,
    Kind,
    Overrides,
    Recipe,
    Repair,
    Treatment,
)
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures
from quarterdeck_controller.optimize.search.choose import TIE, best, fits, misses
from quarterdeck_controller.optimize.search.story import Rung
from quarterdeck_controller.optimize.steps import Node, Sensitivity

INTEGER = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
LINEAR = frozenset({"MatMul", "Gemm"})
IMBALANCED = 8.0
"""Largest over median channel from which one scale for a tensor wastes three bits."""
LINEAR_SHARE = 0.2
"""Of the weights that matrix products must hold for run-time ranges to be worth a try:
they alone have fast kernels for these."""
MOST_MIXED = 8
"""Mixtures tried at most."""
TUNING_PAYS = 0.7
"""Of the loss that tuning must have left at most to be worth repeating."""
HALF: Treatment = "half"
HALVED = (0.05, 0.2)
"""Shares of all weights that are kept in half precision, where eight bits lose."""
SPARED_HALF = 0.04
"""Of all weights, the share that spared operators may keep in half precision: exact
for a hundredth of the size."""
EXACT_DB = 60.0
"""An operator that is quantized to this much signal over noise costs nothing."""
FIRST_SPARED = 16
"""The first mixture spares one operator in so many."""
GAIN = 1 / (1 + TIE)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ladder knows beside what was tried.

    Attributes:
        nodes: What can be given a treatment.
        kinds: What may be tried: the profile's, or fewer when the operator said so.
        qat: Whether training was asked for.
        sensed: The operators in the order of ``by_worth``, once they were looked at.
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
class _State:
    seen: tuple[Candidate, ...]
    facts: Facts
    profile: Profile

    @property
    def tried(self) -> frozenset[Recipe]:
        return frozenset(one.recipe for one in self.seen)

    def missing(self, recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
        return tuple(one for one in dict.fromkeys(recipes) if one not in self.tried)

    def measured(self, kind: Kind) -> list[Candidate]:
        return [one for one in self.seen if one.figures and one.recipe.kind == kind]


def next_move(
    seen: Sequence[Candidate], facts: Facts, profile: Profile
) -> tuple[Move | None, tuple[Skip, ...]]:
    """Return what to do next, None when the search is over, and why rungs were left."""
    state = _State(tuple(seen), facts, profile)
    skipped: list[Skip] = []
    for rung in RUNGS:
        found = rung(state)
        if isinstance(found, Move):
            return found, tuple(skipped)
        skipped.append(found)
    return None, tuple(skipped)


def after_failure(seen: Sequence[Candidate], facts: Facts) -> Move | None:
    """Return what is still worth a try when nothing held on unseen samples."""
    if "fp16" not in facts.kinds or any(one.recipe.kind == "fp16" for one in seen):
        return None
    why = "nothing smaller held on samples that did not choose it: half of the size"
    return Move("floor", why, (Recipe("fp16"),))


def _floor(state: _State) -> Move | Skip:
    wanted = [one for kind in state.facts.kinds for one in _floor_of(kind, state)]
    missing = state.missing(wanted)
    if missing:
        why = "a quarter of the size without touching activations: the safe floor"
        return Move("floor", why, missing)
    return Skip("floor", "tried" if wanted else f"{state.profile.name} has no floor")


def _floor_of(kind: Kind, state: _State) -> list[Recipe]:
    hints, nodes = state.profile.support, state.facts.nodes
    size = sum(node.bytes for node in nodes)
    linear = sum(node.bytes for node in nodes if node.operator in LINEAR)
    if kind == "weights" and size:
        return [Recipe("weights", scheme="u8s8", per_channel=hints.per_channel)]
    if kind == "weights4" and linear:
        return [Recipe("weights4", scheme="u8s8")]
    if kind == "dynamic" and linear >= LINEAR_SHARE * size > 0:
        return [Recipe("dynamic", scheme="u8s8", per_channel=hints.per_channel)]
    first = kind == "fp16" and ("weights" not in state.facts.kinds or not size)
    return [Recipe("fp16")] if first else []


def _floor_mixed(state: _State) -> Move | Skip:
    """Keep in half precision the weights that eight bits tell worst for their size."""
    whole = [
        one
        for one in state.measured("weights")
        if not one.recipe.overrides and _mendable(one, state.profile)
    ]
    if not whole or best(state.seen, state.profile) or not state.profile.support.mixed:
        return Skip("floor", "weights of eight bits need no help, or none helps")
    base, why = whole[0].recipe, f"nothing fits; {_lost(whole[0], state.profile)}"
    if state.facts.floor_sensed is None:
        return Move("floor", f"{why}; find the weights that cost most", sense=base)
    nodes = state.facts.floor_sensed
    total = sum(node.bytes for node in nodes)
    recipes = [
        replace(base, overrides=_halves(nodes, share * total)) for share in HALVED
    ]
    missing = state.missing([one for one in recipes if one.overrides])
    if missing:
        told = f"{why}; the worst for their size are kept in half precision"
        return Move("floor", told, missing)
    return Skip("floor", "the worst weights were kept in half precision")


def _halves(nodes: Sequence[Sensitivity], most_bytes: float) -> Overrides:
    def worth(node: Sensitivity) -> float:
        return float(10 ** (-node.sqnr_db / 10)) / max(node.bytes, 1)

    taken, left = [], most_bytes
    for node in sorted(nodes, key=worth, reverse=True):
        if node.bytes <= left:
            taken.append((node.name, HALF))
            left -= node.bytes
    return tuple(sorted(taken))


def _half(state: _State) -> Move | Skip:
    if "fp16" not in state.facts.kinds or Recipe("fp16") in state.tried:
        return Skip("floor", "half precision was not asked for, or was tried")
    if best(state.seen, state.profile):
        return Skip("floor", "half precision is twice as large as what fits already")
    return Move("floor", "nothing fits yet: half of the size", (Recipe("fp16"),))


def _static(state: _State) -> Move | Skip:
    if "static" not in state.facts.kinds:
        return Skip("static", "integers were not asked for")
    if not _integers(state):
        return Skip("static", "it has no operator that integers could run")
    base = _base(state.profile)
    missing = state.missing([base, replace(base, scope="elementwise")])
    if missing:
        why = (
            "integers throughout: what multiplies alone, and with what lies between, "
            f"by the {base.calibration} range"
        )
        return Move("static", why, missing)
    return Skip("static", "tried")


def _calibrations(state: _State) -> Move | Skip:
    lead, why = _lead(state)
    if lead is None:
        return Skip("calibrate", why)
    base = replace(_plain(lead.recipe), calibration=_base(state.profile).calibration)
    others = [
        replace(base, calibration=how) for how in state.profile.support.calibrations[1:]
    ]
    missing = state.missing(others)
    if missing:
        return Move("calibrate", f"{why}; other ways to take a range", missing)
    return Skip("calibrate", "all ways to take a range were tried")


def _graph_repairs(state: _State) -> Move | Skip:
    lead, why = _lead(state)
    wanted = _repairs_for(state)
    if not wanted:
        return Skip("repair", "channels are balanced, there is nothing to mend")
    dynamic = _dynamic_repairs(state, wanted)
    if lead is None and not dynamic:
        return Skip("repair", why)
    plain = [] if lead is None else [_plain(lead.recipe)]
    recipes = [replace(one, repairs=(repair,)) for one in plain for repair in wanted]
    missing = state.missing([*recipes, *dynamic])
    if missing:
        told = "; ".join(_MEANT[repair] for repair in wanted)
        return Move("repair", f"{why}; {told}", missing)
    return Skip("repair", "what can be mended in the graph was tried")


def _tuning(state: _State) -> Move | Skip:
    lead, why = _lead(state)
    if lead is None:
        return Skip("repair", why)
    if lead.recipe.format != "qdq":
        return Skip("repair", "integers can be tuned in the qdq format only")
    graph = _graph_repairs_of(lead.recipe)
    plain = replace(_plain(lead.recipe), repairs=graph)
    missing = state.missing([replace(plain, repairs=(*graph, *TUNING_REPAIRS))])
    if missing:
        told = "biases corrected and weights rounded to what the outputs need"
        return Move("repair", f"{why}; {told}", missing)
    return Skip("repair", "integers were tuned")


def _sensitivity(state: _State) -> Move | Skip:
    lead, why = _lead(state)
    if lead is None:
        return Skip("sensitivity", why)
    if not state.profile.support.mixed:
        told = f"{state.profile.name} cannot keep some operators in float"
        return Skip("sensitivity", told)
    if state.facts.sensed is None:
        told = f"{why}; find the operators that cost most"
        return Move("sensitivity", told, sense=_untuned(lead.recipe))
    return Skip("sensitivity", f"{len(state.facts.sensed)} operators were looked at")


def by_worth(nodes: Sequence[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Return the operators in the order in which sparing them pays.

    That is by the noise that integers make there, for the work that they do there: a
    small operator is spared gladly, a large one only where it costs much.
    """
    least = 0.5 / max(1, len(nodes))

    def worth(node: Sensitivity) -> float:
        return float(10 ** (-node.sqnr_db / 10)) / (node.share + least)

    return tuple(sorted(nodes, key=worth, reverse=True))


def _mixed(state: _State) -> Move | Skip:
    lead, why = _lead(state)
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


def _others(state: _State) -> Move | Skip:
    lead = _lead_any(state)
    if lead is None or best(state.measured("static"), state.profile):
        return Skip("static", "another way to write integers was not needed")
    hints = state.profile.support
    base = _plain(lead.recipe)
    schemes = [replace(base, scheme=scheme) for scheme in hints.schemes[1:]]
    formats = [replace(base, format=form) for form in hints.formats[1:]]
    missing = state.missing([*schemes, *formats])
    if missing:
        return Move("static", "other types and formats of the same integers", missing)
    return Skip("static", "no other types or formats to try")


def _train(state: _State) -> Move | Skip:
    lead, why = _lead(state)
    if lead is None:
        return Skip("train", why)
    if not state.facts.qat:
        return Skip("train", f"{why}; training was not asked for (--qat)")
    if lead.recipe.format != "qdq" or lead.recipe.trained:
        return Skip("train", "trained already, or not in the qdq format")
    trained = [one for one in state.seen if one.recipe.trained]
    if trained:
        return Skip("train", "trained")
    start = replace(lead.recipe, trained=True)
    return Move("train", f"{why}; train the integers to answer like float", (start,))


RUNGS: tuple[Callable[[_State], Move | Skip], ...] = (
    _floor,
    _static,
    _calibrations,
    _graph_repairs,
    _tuning,
    _sensitivity,
    _mixed,
    _others,
    _floor_mixed,
    _half,
    _train,
)

_MEANT: dict[Repair, str] = {
    "equalize": "channels of very different size are levelled",
    "smooth": "outliers of activations are moved into weights",
}


def _base(profile: Profile) -> Recipe:
    hints = profile.support
    return Recipe(
        "static",
        scheme=hints.schemes[0],
        symmetric=hints.symmetric,
        per_channel=hints.per_channel,
        reduce_range=hints.reduce_range,
        calibration=hints.calibrations[0],
        format=hints.formats[0],
        rest="weights" if hints.mixed else "float",
    )


def _plain(recipe: Recipe) -> Recipe:
    return replace(recipe, overrides=(), repairs=(), trained=False)


def _untuned(recipe: Recipe) -> Recipe:
    return replace(recipe, repairs=_graph_repairs_of(recipe), trained=False)


def _graph_repairs_of(recipe: Recipe) -> tuple[Repair, ...]:
    return tuple(one for one in recipe.repairs if one not in TUNING_REPAIRS)


def _integers(state: _State) -> list[Node]:
    allowed = state.profile.support.operators
    return [
        node
        for node in state.facts.nodes
        if node.operator in INTEGER
        and not node.inside
        and (not allowed or node.operator in allowed)
    ]


def _lead(state: _State) -> tuple[Candidate | None, str]:
    """Return the static candidate worth mending, and why it is or why none is."""
    static = state.measured("static")
    if not static:
        return None, "no integer candidate runs"
    taken = best(state.seen, state.profile)
    if taken and taken.recipe.kind == "static":
        return None, f"{taken.recipe.name} meets the budget"
    mendable = [one for one in static if _mendable(one, state.profile)]
    if not mendable:
        return None, "integers miss more than accuracy: no repair would help"
    pays = [one for one in mendable if taken is None or _pays(one, taken, state)]
    if not pays:
        assert taken is not None
        return None, f"{taken.recipe.name} meets the budget and integers gain nothing"
    lead = min(pays, key=lambda one: (_figures(one).loss, one.recipe.name))
    if taken is None:
        told = "nothing meets the budget"
    else:
        told = f"{lead.recipe.name} would beat {taken.recipe.name}"
    told = f"{told}, but {_lost(lead, state.profile)}"
    return lead, told


def _lead_any(state: _State) -> Candidate | None:
    static = state.measured("static")
    return min(static, key=lambda one: _figures(one).latency_ratio, default=None)


def _mendable(candidate: Candidate, profile: Profile) -> bool:
    """Return whether it runs and misses accuracy alone."""
    return candidate.figures is not None and all(
        miss.kind in ("quality", "golden")
        for miss in misses(_figures(candidate), profile)
    )


def _pays(candidate: Candidate, taken: Candidate, state: _State) -> bool:
    """Return whether ``candidate``, were it right, would be preferred by far."""
    new, old = _figures(candidate), _figures(taken)
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


def _lost(candidate: Candidate, profile: Profile) -> str:
    found = misses(_figures(candidate), profile)
    return found[0].sentence if found else "meets the budget"


def _repairs_for(state: _State) -> list[Repair]:
    found: list[Repair] = []
    nodes = state.facts.nodes
    weighty = [node for node in nodes if node.bytes and node.operator in INTEGER]
    uneven = any(node.imbalance > IMBALANCED for node in weighty)
    if any(node.operator == "Conv" for node in weighty) and (
        uneven or not state.profile.support.per_channel
    ):
        found.append("equalize")
    if any(node.operator in LINEAR for node in weighty):
        found.append("smooth")
    return found


def _dynamic_repairs(state: _State, wanted: Sequence[Repair]) -> list[Recipe]:
    """Return the dynamic candidates that smoothing could bring into the budget."""
    if "smooth" not in wanted:
        return []
    taken = best(state.seen, state.profile)
    return [
        replace(one.recipe, repairs=("smooth",))
        for one in state.measured("dynamic")
        if not one.recipe.repairs
        and not fits(one, state.profile)
        and _mendable(one, state.profile)
        and (taken is None or _pays(one, taken, state))
    ]


def _plain_base(state: _State) -> Recipe:
    """Return the best static recipe that spares no operator and is not trained.

    Tuning is costly and would be repeated for every mixture: it must have paid well.
    """
    whole = [
        one
        for one in state.measured("static")
        if not one.recipe.overrides
        and not one.recipe.trained
        and _mendable(one, state.profile)
    ]
    found = min(whole, key=lambda one: (_figures(one).loss, one.recipe.name))
    untuned = [one for one in whole if _untuned(one.recipe) == one.recipe]
    if found in untuned or not untuned:
        return found.recipe
    plain = min(untuned, key=lambda one: (_figures(one).loss, one.recipe.name))
    paid = _figures(found).loss < TUNING_PAYS * _figures(plain).loss
    return found.recipe if paid else plain.recipe


def _next_counts(state: _State, base: Recipe, total: int) -> tuple[int, ...]:
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
        hopeless = any(not _mendable(tried[number], state.profile) for number in bad)
        counts = [] if hopeless else [first, 2 * first]
        return tuple(count for count in counts if count <= max(total // 2, 1))
    low = max((count for count in bad if count < min(good)), default=0)
    between = (low + min(good)) // 2
    return (between,) if between > low else ()


def _mixture(state: _State, worst: Sequence[Sensitivity]) -> Overrides:
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


def _spared(state: _State) -> Treatment:
    """Return what spares a matrix product: run-time ranges where these are fast."""
    quick = [
        one for one in state.measured("dynamic") if _figures(one).latency_ratio < GAIN
    ]
    return "dynamic" if quick and "dynamic" in state.facts.kinds else "weights"


def _figures(candidate: Candidate) -> Figures:
    assert candidate.figures is not None, "only measured candidates are compared"
    return candidate.figures
