"""What to try next, from cheap to costly, each rung only as far as needed. Pure.

The ladder has no memory of its own: every rung looks at what was tried and wants what
is missing, so a search that was cut off goes on where it was. Rungs above ``static``
are climbed only while that could pay: nothing meets the budget yet, or integers would
be faster (smaller, by the class's preference) than what meets it but lose too much.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from quarterdeck_controller.optimize.profile import (
    Profile,
)
from quarterdeck_controller.optimize.recipe import (
    TUNING_REPAIRS,
    Recipe,
    Repair,
)
from quarterdeck_controller.optimize.search.candidate import (
    Candidate,
)
from quarterdeck_controller.optimize.search.choose import (
    best,
    fits,
)
from quarterdeck_controller.optimize.search.floor import floor, floor_mixed, half
from quarterdeck_controller.optimize.search.mixing import mixed
from quarterdeck_controller.optimize.search.state import (
    LINEAR,
    Facts,
    Move,
    Skip,
    State,
    bare,
    figures_of,
    graph_repairs_of,
    leading,
    mendable,
    pays,
    untuned,
)
from quarterdeck_controller.optimize.steps import (
    Node,
)

INTEGER = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
IMBALANCED = 8.0
"""Largest over median channel from which one scale for a tensor wastes three bits."""


def next_move(
    seen: Sequence[Candidate], facts: Facts, profile: Profile
) -> tuple[Move | None, tuple[Skip, ...]]:
    """Return what to do next, None when the search is over, and why rungs were left."""
    state = State(tuple(seen), facts, profile)
    skipped: list[Skip] = []
    for rung in RUNGS:
        found = rung(state)
        if isinstance(found, Move):
            return found, tuple(skipped)
        skipped.append(found)
    return None, tuple(skipped)


def _static(state: State) -> Move | Skip:
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


def _calibrations(state: State) -> Move | Skip:
    lead, why = leading(state)
    if lead is None:
        return Skip("calibrate", why)
    base = replace(bare(lead.recipe), calibration=_base(state.profile).calibration)
    others = [
        replace(base, calibration=how) for how in state.profile.support.calibrations[1:]
    ]
    missing = state.missing(others)
    if missing:
        return Move("calibrate", f"{why}; other ways to take a range", missing)
    return Skip("calibrate", "all ways to take a range were tried")


def _graph_repairs(state: State) -> Move | Skip:
    lead, why = leading(state)
    wanted = _repairs_for(state)
    if not wanted:
        return Skip("repair", "channels are balanced, there is nothing to mend")
    dynamic = _dynamic_repairs(state, wanted)
    if lead is None and not dynamic:
        return Skip("repair", why)
    plain = [] if lead is None else [bare(lead.recipe)]
    recipes = [replace(one, repairs=(repair,)) for one in plain for repair in wanted]
    missing = state.missing([*recipes, *dynamic])
    if missing:
        told = "; ".join(_MEANT[repair] for repair in wanted)
        return Move("repair", f"{why}; {told}", missing)
    return Skip("repair", "what can be mended in the graph was tried")


def _tuning(state: State) -> Move | Skip:
    lead, why = leading(state)
    if lead is None:
        return Skip("repair", why)
    if lead.recipe.format != "qdq":
        return Skip("repair", "integers can be tuned in the qdq format only")
    graph = graph_repairs_of(lead.recipe)
    plain = replace(bare(lead.recipe), repairs=graph)
    missing = state.missing([replace(plain, repairs=(*graph, *TUNING_REPAIRS))])
    if missing:
        told = "biases corrected and weights rounded to what the outputs need"
        return Move("repair", f"{why}; {told}", missing)
    return Skip("repair", "integers were tuned")


def _sensitivity(state: State) -> Move | Skip:
    lead, why = leading(state)
    if lead is None:
        return Skip("sensitivity", why)
    if not state.profile.support.mixed:
        told = f"{state.profile.name} cannot keep some operators in float"
        return Skip("sensitivity", told)
    if state.facts.sensed is None:
        told = f"{why}; find the operators that cost most"
        return Move("sensitivity", told, sense=untuned(lead.recipe))
    return Skip("sensitivity", f"{len(state.facts.sensed)} operators were looked at")


def _others(state: State) -> Move | Skip:
    lead = _lead_any(state)
    if lead is None or best(state.measured("static"), state.profile):
        return Skip("static", "another way to write integers was not needed")
    hints = state.profile.support
    base = bare(lead.recipe)
    schemes = [replace(base, scheme=scheme) for scheme in hints.schemes[1:]]
    formats = [replace(base, format=form) for form in hints.formats[1:]]
    missing = state.missing([*schemes, *formats])
    if missing:
        return Move("static", "other types and formats of the same integers", missing)
    return Skip("static", "no other types or formats to try")


def _train(state: State) -> Move | Skip:
    lead, why = leading(state)
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


RUNGS: tuple[Callable[[State], Move | Skip], ...] = (
    floor,
    _static,
    _calibrations,
    _graph_repairs,
    _tuning,
    _sensitivity,
    mixed,
    _others,
    floor_mixed,
    half,
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


def _integers(state: State) -> list[Node]:
    allowed = state.profile.support.operators
    return [
        node
        for node in state.facts.nodes
        if node.operator in INTEGER
        and not node.inside
        and (not allowed or node.operator in allowed)
    ]


def _lead_any(state: State) -> Candidate | None:
    static = state.measured("static")
    return min(static, key=lambda one: figures_of(one).latency_ratio, default=None)


def _repairs_for(state: State) -> list[Repair]:
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


def _dynamic_repairs(state: State, wanted: Sequence[Repair]) -> list[Recipe]:
    """Return the dynamic candidates that smoothing could bring into the budget."""
    if "smooth" not in wanted:
        return []
    taken = best(state.seen, state.profile)
    return [
        replace(one.recipe, repairs=("smooth",))
        for one in state.measured("dynamic")
        if not one.recipe.repairs
        and not fits(one, state.profile)
        and mendable(one, state.profile)
        and (taken is None or pays(one, taken, state))
    ]
