from collections.abc import Callable
from dataclasses import replace

from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.recipe import KINDS, Recipe
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures
from quarterdeck_controller.optimize.search.floor import after_failure
from quarterdeck_controller.optimize.search.ladder import next_move
from quarterdeck_controller.optimize.search.state import Facts, Skip
from quarterdeck_controller.optimize.steps import Node, Sensitivity
from tests.support.candidates import figures, profile

CONVOLUTIONS = tuple(Node(name=f"c{n}", operator="Conv", bytes=4000) for n in range(16))
PRODUCTS = tuple(Node(name=f"m{n}", operator="MatMul", bytes=4000) for n in range(16))
UNEVEN = (Node(name="c0", operator="Conv", bytes=4000, imbalance=64.0),)
SENSED = tuple(
    Sensitivity(name=f"c{n}", operator="Conv", sqnr_db=float(n), bytes=4000)
    for n in range(16)
)

Oracle = Callable[[Recipe], Figures | None]


def climb(
    oracle: Oracle,
    facts: Facts,
    who: Profile | None = None,
    sensed: tuple[Sensitivity, ...] = SENSED,
) -> tuple[list[Candidate], tuple[Skip, ...]]:
    """Return what a whole climb tries when the world answers like ``oracle``."""
    seen: list[Candidate] = []
    for _ in range(60):
        move, skipped = next_move(seen, facts, who or profile())
        if move is None:
            return seen, skipped
        if move.sense is not None and move.sense.kind == "static":
            facts = replace(facts, sensed=sensed)
        elif move.sense is not None:
            facts = replace(facts, floor_sensed=sensed)
        for recipe in move.recipes:
            assert recipe not in {one.recipe for one in seen}, "tried twice"
            found = oracle(recipe)
            failure = None if found else "it does not run"
            seen.append(Candidate(recipe, move.rung, move.why, found, failure))
    raise AssertionError("the climb does not end")


def facts(
    nodes: tuple[Node, ...] = CONVOLUTIONS,
    kinds: tuple[str, ...] = ("static", "dynamic", "weights", "fp16"),
    *,
    qat: bool = False,
) -> Facts:
    chosen = tuple(kind for kind in KINDS if kind in kinds)
    return Facts(nodes=nodes, kinds=chosen, qat=qat)


def floor_or(static: Figures) -> Oracle:
    def oracle(recipe: Recipe) -> Figures | None:
        return static if recipe.kind == "static" else figures(ratio=1.0, size=0.27)

    return oracle


def names(seen: list[Candidate]) -> list[str]:
    return [one.recipe.name for one in seen]


def test_the_search_stops_at_integers_that_meet_the_budget() -> None:
    seen, skipped = climb(floor_or(figures(ratio=0.5)), facts())

    assert names(seen) == [
        "weights-s8",
        "static-u8s8-mse",
        "static-u8s8-mse-elementwise",
    ]
    assert any("meets the budget" in skip.why for skip in skipped)


def test_integers_that_lose_and_would_not_be_faster_are_left_alone() -> None:
    seen, skipped = climb(floor_or(figures(ratio=0.98, drop_points=9.0)), facts())

    assert len(seen) == 3
    assert any("integers gain nothing" in skip.why for skip in skipped)


def test_integers_slower_than_float_are_not_repaired() -> None:
    seen, skipped = climb(floor_or(figures(ratio=1.5, drop_points=9.0)), facts())

    assert not any(one.recipe.repairs or one.recipe.overrides for one in seen)
    assert any("miss more than accuracy" in skip.why for skip in skipped)


def test_a_loss_climbs_from_ranges_over_repairs_to_sparing_the_worst() -> None:
    seen, skipped = climb(floor_or(figures(ratio=0.5, drop_points=9.0)), facts())

    rungs = list(dict.fromkeys(one.rung for one in seen))
    assert rungs == ["floor", "static", "calibrate", "repair", "mixed"]
    assert [len(one.recipe.overrides) for one in seen if one.rung == "mixed"] == [
        1,
        2,
        4,
        8,
    ]
    assert any("--qat" in skip.why for skip in skipped)


def test_as_few_operators_are_spared_as_the_budget_needs() -> None:
    def oracle(recipe: Recipe) -> Figures | None:
        if recipe.kind != "static":
            return figures(ratio=1.0, size=0.27)
        drop = max(0.0, 6.0 - len(recipe.overrides))
        return figures(ratio=0.5, drop_points=drop)

    seen, _ = climb(oracle, facts())

    counts = [len(one.recipe.overrides) for one in seen if one.rung == "mixed"]
    assert counts == [1, 2, 4, 8, 6, 5]


def test_the_worst_operators_are_the_ones_that_are_spared() -> None:
    seen, _ = climb(floor_or(figures(ratio=0.5, drop_points=9.0)), facts())

    four = next(one for one in seen if len(one.recipe.overrides) == 4)
    assert dict(four.recipe.overrides) == dict.fromkeys(
        ("c0", "c1", "c2", "c3"), "weights"
    )


def test_products_are_spared_by_run_time_ranges_where_these_are_fast() -> None:
    sensed = tuple(
        Sensitivity(name=f"m{n}", operator="MatMul", sqnr_db=float(n), bytes=4000)
        for n in range(16)
    )

    def oracle(recipe: Recipe) -> Figures | None:
        if recipe.kind == "dynamic":
            return figures(ratio=0.6, drop_points=3.0)
        return floor_or(figures(ratio=0.4, drop_points=9.0))(recipe)

    seen, _ = climb(oracle, facts(PRODUCTS), sensed=sensed)

    mixed = next(one for one in seen if one.recipe.overrides)
    assert dict(mixed.recipe.overrides) == {"m0": "dynamic"}


def test_uneven_channels_are_levelled() -> None:
    seen, _ = climb(
        floor_or(figures(ratio=0.5, drop_points=9.0)), facts(UNEVEN), sensed=()
    )

    assert any("equalize" in one.recipe.repairs for one in seen)


def test_even_channels_are_not_levelled_where_each_has_a_scale() -> None:
    seen, _ = climb(floor_or(figures(ratio=0.5, drop_points=9.0)), facts())

    assert not any("equalize" in one.recipe.repairs for one in seen)


def test_training_is_last_and_only_by_order() -> None:
    seen, _ = climb(floor_or(figures(ratio=0.5, drop_points=9.0)), facts(qat=True))

    assert [one.recipe.trained for one in seen].index(True) == len(seen) - 1


def test_a_class_that_mixes_nothing_spares_nothing() -> None:
    who = profile(support=profile().support.model_copy(update={"mixed": False}))

    seen, skipped = climb(
        floor_or(figures(ratio=0.5, drop_points=9.0)), facts(), who=who
    )

    assert not any(one.recipe.overrides for one in seen)
    assert any("cannot keep some operators in float" in skip.why for skip in skipped)


def test_a_model_without_anything_to_multiply_has_no_integers() -> None:
    gather = (Node(name="g", operator="Gather", bytes=4000),)

    seen, skipped = climb(floor_or(figures()), facts(gather))

    assert names(seen) == ["weights-s8"]
    assert any("no operator that integers could run" in skip.why for skip in skipped)


def test_what_does_not_run_is_not_climbed_on() -> None:
    def oracle(recipe: Recipe) -> Figures | None:
        return None if recipe.kind == "static" else figures(ratio=1.0, size=0.27)

    seen, skipped = climb(oracle, facts())

    assert len(seen) == 3
    assert any("no integer candidate runs" in skip.why for skip in skipped)


def test_a_rung_says_why_it_is_climbed() -> None:
    seen, _ = climb(floor_or(figures(ratio=0.5, drop_points=9.0)), facts())

    why = next(one.why for one in seen if one.rung == "mixed")
    assert "would beat weights-s8" in why
    assert "9.0 points below" in why


def test_half_precision_is_for_when_nothing_else_fits() -> None:
    def oracle(recipe: Recipe) -> Figures | None:
        return figures(ratio=1.0, size=0.5) if recipe.kind == "fp16" else None

    seen, _ = climb(oracle, facts())

    assert names(seen)[-1] == "fp16"


def test_half_precision_comes_first_where_weights_alone_are_not_offered() -> None:
    seen, _ = climb(floor_or(figures()), facts(kinds=("fp16",)))

    assert names(seen) == ["fp16"]


def test_run_time_ranges_are_left_out_where_products_are_few() -> None:
    few = (*CONVOLUTIONS, Node(name="m", operator="Gemm", bytes=400))

    seen, _ = climb(floor_or(figures()), facts(few))

    assert not any(one.recipe.kind == "dynamic" for one in seen)
    asked, _ = climb(floor_or(figures()), facts(few, kinds=("dynamic",)))
    assert names(asked) == ["dynamic-s8"]


def test_calibration_that_is_unlike_evaluation_is_told_and_spares_nothing() -> None:
    calm = tuple(
        Sensitivity(name=f"c{n}", operator="Conv", sqnr_db=150.0, bytes=4000)
        for n in range(16)
    )

    seen, skipped = climb(
        floor_or(figures(ratio=0.5, drop_points=75.0)), facts(), sensed=calm
    )

    assert not any(one.recipe.overrides for one in seen)
    assert any("unlike the evaluation samples" in skip.why for skip in skipped)


def test_half_precision_follows_when_nothing_held_on_unseen_samples() -> None:
    seen, _ = climb(floor_or(figures(ratio=0.5)), facts())

    move = after_failure(seen, facts())

    assert move is not None
    assert [one.name for one in move.recipes] == ["fp16"]
    assert after_failure(seen, facts(kinds=("static", "weights"))) is None


def test_weights_that_eight_bits_tell_badly_are_kept_in_half_precision() -> None:
    nodes = (
        Node(name="body", operator="Conv", bytes=96_000),
        Node(name="head", operator="Gemm", bytes=4000),
    )
    sensed = (
        Sensitivity(name="head", operator="Gemm", sqnr_db=8.0, bytes=4000),
        Sensitivity(name="body", operator="Conv", sqnr_db=40.0, bytes=96_000),
    )

    def oracle(recipe: Recipe) -> Figures | None:
        if recipe.kind == "static":
            return figures(ratio=1.4)
        lost = 0.0 if dict(recipe.overrides) == {"head": "half"} else 7.0
        return figures(ratio=1.0, size=0.27, drop_points=lost)

    seen, _ = climb(oracle, facts(nodes, ("static", "weights")), sensed=sensed)

    assert dict(seen[-1].recipe.overrides) == {"head": "half"}
    assert "7.0 points below" in seen[-1].why


def test_small_operators_are_spared_exactly_and_large_ones_at_eight_bits() -> None:
    nodes = (
        *(Node(name=f"c{n}", operator="Conv", bytes=90_000) for n in range(15)),
        Node(name="c15", operator="Conv", bytes=40),
    )
    sensed = (
        Sensitivity(name="c15", operator="Conv", sqnr_db=1.0, bytes=40),
        Sensitivity(name="c0", operator="Conv", sqnr_db=2.0, bytes=90_000),
        *SENSED[1:15],
    )

    seen, _ = climb(
        floor_or(figures(ratio=0.5, drop_points=9.0)), facts(nodes), sensed=sensed
    )

    two = next(one for one in seen if len(one.recipe.overrides) == 2)
    assert dict(two.recipe.overrides) == {"c15": "half", "c0": "weights"}
