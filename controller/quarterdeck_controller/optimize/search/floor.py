"""The floor: weights alone, small and at float's speed. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from quarterdeck_controller.optimize.recipe import (
    Kind,
    Overrides,
    Recipe,
)
from quarterdeck_controller.optimize.search.candidate import (
    Candidate,
)
from quarterdeck_controller.optimize.search.choose import (
    best,
)
from quarterdeck_controller.optimize.search.state import (
    HALF,
    LINEAR,
    Facts,
    Move,
    Skip,
    State,
    mendable,
    shortfall,
)
from quarterdeck_controller.optimize.steps import (
    Sensitivity,
)

LINEAR_SHARE = 0.2
"""Of the weights that matrix products must hold for run-time ranges to be worth a try:
they alone have fast kernels for these."""
HALVED = (0.05, 0.2)
"""Shares of all weights that are kept in half precision, where eight bits lose."""


def floor(state: State) -> Move | Skip:
    """Try what the class offers without touching activations."""
    wanted = [one for kind in state.facts.kinds for one in _floor_of(kind, state)]
    missing = state.missing(wanted)
    if missing:
        why = "a quarter of the size without touching activations: the safe floor"
        return Move("floor", why, missing)
    return Skip("floor", "tried" if wanted else f"{state.profile.name} has no floor")


def _floor_of(kind: Kind, state: State) -> list[Recipe]:
    hints, nodes = state.profile.support, state.facts.nodes
    size = sum(node.bytes for node in nodes)
    linear = sum(node.bytes for node in nodes if node.operator in LINEAR)
    if kind == "weights" and size:
        return [Recipe("weights", scheme="u8s8", per_channel=hints.per_channel)]
    if kind == "weights4" and linear:
        return [Recipe("weights4", scheme="u8s8")]
    alone = state.facts.kinds == ("dynamic",)
    if kind == "dynamic" and linear and (alone or linear >= LINEAR_SHARE * size):
        return [Recipe("dynamic", scheme="u8s8", per_channel=hints.per_channel)]
    first = kind == "fp16" and ("weights" not in state.facts.kinds or not size)
    return [Recipe("fp16")] if first else []


def floor_mixed(state: State) -> Move | Skip:
    """Keep in half precision the weights that eight bits tell worst for their size."""
    whole = [
        one
        for one in state.measured("weights")
        if not one.recipe.overrides and mendable(one, state.profile)
    ]
    if not whole or best(state.seen, state.profile) or not state.profile.support.mixed:
        return Skip("floor", "weights of eight bits need no help, or none helps")
    base, why = whole[0].recipe, f"nothing fits; {shortfall(whole[0], state.profile)}"
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


def half(state: State) -> Move | Skip:
    """Try half precision when nothing smaller fits."""
    if "fp16" not in state.facts.kinds or Recipe("fp16") in state.tried:
        return Skip("floor", "half precision was not asked for, or was tried")
    if best(state.seen, state.profile):
        return Skip("floor", "half precision is twice as large as what fits already")
    return Move("floor", "nothing fits yet: half of the size", (Recipe("fp16"),))


def after_failure(seen: Sequence[Candidate], facts: Facts) -> Move | None:
    """Return what is still worth a try when nothing held on unseen samples."""
    if "fp16" not in facts.kinds or any(one.recipe.kind == "fp16" for one in seen):
        return None
    why = "nothing smaller held on samples that did not choose it: half of the size"
    return Move("floor", why, (Recipe("fp16"),))
