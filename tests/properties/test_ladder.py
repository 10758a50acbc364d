from dataclasses import replace
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.profile import load_profile, profile_names
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures
from quarterdeck_controller.optimize.search.ladder import next_move
from quarterdeck_controller.optimize.search.state import Facts
from quarterdeck_controller.optimize.steps import Node, Sensitivity
from tests.support.candidates import figures

OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Gather", "LSTM")
MOST = 40

nodes = st.lists(
    st.tuples(st.sampled_from(OPERATORS), st.integers(0, 9), st.floats(1, 99)),
    max_size=12,
).map(
    lambda drawn: tuple(
        Node(name=f"n{at}", operator=kind, bytes=400 * size, imbalance=imbalance)
        for at, (kind, size, imbalance) in enumerate(drawn)
    )
)
worlds = st.integers(0, 1 << 30)


def answer(recipe: Recipe, world: int) -> Figures | None:
    """Return what a made-up world says of a recipe, the same each time."""
    dice = crc32(f"{recipe} {world}".encode())
    dice = crc32(str(dice).encode()) << 20 | dice
    if dice % 7 == 0:
        return None
    return figures(
        ratio=0.3 + (dice // 7 % 100) / 60,
        size=0.2 + (dice // 700 % 100) / 200,
        drop_points=(dice // 70_000 % 100) / 20,
        agreement=0.9 + (dice // 7_000_000 % 100) / 1000,
    )


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(profile_names()), nodes=nodes, qat=st.booleans(), world=worlds
)
def test_every_climb_ends_tries_nothing_twice_and_stays_within_the_class(
    name: str, nodes: tuple[Node, ...], qat: bool, world: int
) -> None:
    profile = load_profile(name)
    facts = Facts(nodes=nodes, kinds=profile.support.kinds, qat=qat)
    seen: list[Candidate] = []

    for _ in range(MOST):
        move, skipped = next_move(seen, facts, profile)
        if move is None:
            break
        if move.sense is not None:
            worst = [
                Sensitivity(name=n.name, operator=n.operator, sqnr_db=1, bytes=n.bytes)
                for n in nodes
            ]
            found = tuple(worst)
            static = move.sense.kind == "static"
            facts = (
                replace(facts, sensed=found)
                if static
                else replace(facts, floor_sensed=found)
            )
        for recipe in move.recipes:
            told = answer(recipe, world)
            seen.append(Candidate(recipe, move.rung, move.why, told, None))

    assert move is None, "the climb does not end"
    assert all(skip.why for skip in skipped)
    recipes = [one.recipe for one in seen]
    assert len(set(recipes)) == len(recipes)
    for recipe in recipes:
        assert recipe.kind in profile.support.kinds
        assert recipe.trained <= qat
        assert (
            profile.support.per_channel
            or not recipe.per_channel
            or (recipe.kind in ("fp16", "weights4"))
        )
        assert profile.support.mixed or not recipe.overrides
        assert list(recipe.overrides) == sorted(recipe.overrides)
        assert len(recipe.name) <= 64
