import pytest

from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.choose import (
    best,
    blame,
    fits,
    front,
    misses,
    nearest,
    next_to_confirm,
    praise,
)
from tests.support.candidates import candidate, failed, figures, profile

STATIC = Recipe("static")
DYNAMIC = Recipe("dynamic")
HALF = Recipe("fp16")


def test_the_quickest_within_the_budget_is_taken() -> None:
    slow, quick = candidate(HALF, ratio=0.9), candidate(STATIC, ratio=0.5)

    assert best([slow, quick], profile()) is quick
    assert "0.50 of its latency" in praise(quick, 2, profile())


def test_latencies_within_a_tenth_are_settled_by_size() -> None:
    large = candidate(HALF, ratio=0.50, size=0.5)
    small = candidate(STATIC, ratio=0.54, size=0.3)

    assert best([large, small], profile()) is small


def test_equals_in_latency_and_size_are_settled_by_accuracy() -> None:
    far = candidate(HALF, ratio=0.50, agreement=0.95)
    near = candidate(STATIC, ratio=0.54, agreement=0.999)

    assert best([far, near], profile()) is near


def test_a_class_that_prefers_size_takes_the_smallest_although_it_is_slower() -> None:
    small = candidate(DYNAMIC, ratio=0.9, size=0.25)
    quick = candidate(STATIC, ratio=0.4, size=0.4)

    assert best([quick, small], profile(prefer="size")) is small


def test_a_class_that_prefers_size_takes_the_quicker_of_two_as_small() -> None:
    small = candidate(DYNAMIC, ratio=0.9, size=0.264)
    quick = candidate(STATIC, ratio=0.4, size=0.28)

    assert best([quick, small], profile(prefer="size")) is quick


def test_a_class_that_prefers_memory_takes_what_needs_least() -> None:
    light = candidate(DYNAMIC, ratio=0.9, peak_memory_mb=50.0)
    quick = candidate(STATIC, ratio=0.4, peak_memory_mb=80.0)

    assert best([quick, light], profile(prefer="memory")) is light


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"drop_points": 2.5}, "quality", "2.5 points below float's"),
        ({"labelled": False, "agreement": 0.9}, "quality", "agreement with float 90.0"),
        ({"size": 0.7}, "size", "size 0.7 of float, at most 0.6"),
        ({"ratio": 1.3}, "latency", "median latency 1.30 of float, at most 1 of"),
        ({"peak_memory_mb": 9000.0}, "memory", "peak memory 9e+03 MiB"),
        ({"golden_error": 0.4}, "golden", "error on the golden vectors 0.4"),
        ({"golden_error": float("inf")}, "golden", "error on the golden vectors inf"),
        ({"golden_agreement": 0.5}, "golden", "agreement on the golden vectors 50.0"),
    ],
)
def test_a_miss_is_told_with_both_values(
    changes: dict[str, float], kind: str, told: str
) -> None:
    (miss,) = misses(figures(**changes), profile())

    assert miss.kind == kind
    assert told in miss.sentence


def test_a_drop_equal_to_the_budget_fits() -> None:
    limit = profile().budget.accuracy_drop_points

    assert fits(candidate(STATIC, drop_points=limit), profile())


def test_what_is_slower_than_float_is_taken_only_by_order() -> None:
    slow = candidate(STATIC, ratio=1.2)
    ordered = profile().budget.model_copy(update={"latency_ratio": 1.5})

    assert not fits(slow, profile())
    assert fits(slow, profile(budget=ordered))


def test_a_difference_that_no_measurement_tells_is_not_slower() -> None:
    assert fits(candidate(STATIC, ratio=1.04), profile())


def test_of_all_misses_the_nearest_is_named() -> None:
    near, far = candidate(STATIC, drop_points=1.2), candidate(HALF, drop_points=30.0)

    found = nearest([far, near], profile())

    assert found is near
    assert "1.2 points below" in blame(found, [far, near], profile())


def test_when_nothing_could_be_measured_every_failure_is_told() -> None:
    tried = [failed(STATIC, "it crashed"), failed(HALF, "it hung")]

    assert nearest(tried, profile()) is None
    told = blame(None, tried, profile())
    assert "it crashed" in told
    assert "it hung" in told


def test_the_front_leaves_out_what_another_beats_in_everything() -> None:
    quick = candidate(STATIC, ratio=0.4, size=0.3, drop_points=1.0)
    exact = candidate(HALF, ratio=1.0, size=0.5, drop_points=0.0)
    beaten = candidate(DYNAMIC, ratio=1.1, size=0.5, drop_points=0.5)

    assert front([quick, exact, beaten]) == (quick, exact)


def test_after_a_failure_the_best_of_those_closer_to_float_follows() -> None:
    quick = candidate(STATIC, ratio=0.4, golden_error=0.10)
    as_far = candidate(Recipe("static", scheme="u8u8"), ratio=0.5, golden_error=0.12)
    closer = candidate(DYNAMIC, ratio=0.8, golden_error=0.05)
    closest = candidate(HALF, ratio=1.0, golden_error=0.001)
    tried = [quick, as_far, closer, closest]

    first = next_to_confirm(tried, [], profile(), last=False)
    second = next_to_confirm(tried, [quick], profile(), last=False)
    third = next_to_confirm(tried, [quick], profile(), last=True)

    assert (first, second, third) == (quick, closer, closest)
    assert next_to_confirm(tried, tried, profile(), last=True) is None


def test_of_several_clear_vectors_one_may_fall_to_the_other_side() -> None:
    one_of_fifteen = candidate(STATIC, golden_agreement=14 / 15, golden_clear=15)
    two_of_fifteen = candidate(STATIC, golden_agreement=13 / 15, golden_clear=15)
    one_of_four = candidate(STATIC, golden_agreement=3 / 4, golden_clear=4)

    assert fits(one_of_fifteen, profile())
    assert not fits(two_of_fifteen, profile())
    assert not fits(one_of_four, profile())
