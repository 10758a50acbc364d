from typing import Any

import pytest

from quarterdeck_controller.optimize.evaluation import Latency
from quarterdeck_controller.optimize.profile import Profile, load_profile
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.choose import Candidate, Figures, choose

STATIC = Recipe("static")
DYNAMIC = Recipe("dynamic")
HALF = Recipe("fp16")


def profile(**changes: object) -> Profile:
    return load_profile("gateway-x86-vnni").model_copy(update=changes)


def candidate(recipe: Recipe, *, slower: float = 0.5, **changes: object) -> Candidate:
    fields: dict[str, Any] = {
        "metric": "top1",
        "samples": 1000,
        "score": 0.9,
        "reference_score": 0.9,
        "agreement": 0.99,
        "bytes": 300,
        "reference_bytes": 1000,
        "latency": Latency(p50_ms=slower, p90_ms=slower, p99_ms=slower),
        "reference_latency": Latency(p50_ms=1, p90_ms=1, p99_ms=1),
        "peak_memory_mb": 80.0,
        "reference_peak_memory_mb": 80.0,
        "golden_agreement": 1.0,
        "golden_error": 0.02,
    }
    return Candidate(recipe, Figures(**(fields | changes)))


def test_the_quickest_within_the_budget_is_taken() -> None:
    slow, quick = candidate(HALF, slower=0.9), candidate(STATIC, slower=0.5)

    choice = choose([slow, quick], profile())

    assert choice.accepted
    assert choice.candidate is quick
    assert "0.50 of its latency" in choice.reason


def test_latencies_within_a_tenth_are_settled_by_size() -> None:
    large = candidate(HALF, slower=0.50, bytes=500)
    small = candidate(STATIC, slower=0.54, bytes=300)

    choice = choose([large, small], profile())

    assert choice.candidate is small


def test_a_class_that_prefers_size_takes_the_smallest_although_it_is_slower() -> None:
    quick = candidate(HALF, slower=0.2, bytes=500)
    small = candidate(STATIC, slower=1.0, bytes=300)

    choice = choose([quick, small], profile(prefer="size"))

    assert choice.candidate is small


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"score": 0.88}, "88.0 % is 2.0 points below float's 90.0 %, at most 1"),
        ({"bytes": 900}, "size 0.9 of float, at most 0.6"),
        ({"slower": 1.5}, "median latency 1.5 of float, at most 1.1"),
        ({"peak_memory_mb": 300.0}, "peak memory 300 MiB, at most 256 MiB"),
        ({"golden_error": 0.8}, "error on the golden vectors 0.8 of the scores"),
        ({"golden_agreement": 0.5}, "golden vectors 50.0 %, at least 95 %"),
        (
            {"metric": "agreement", "agreement": 0.9},
            "agreement with float 90.0 %, at least 97 %",
        ),
    ],
)
def test_a_miss_is_refused_with_both_values(changes: dict[str, Any], told: str) -> None:
    missing = candidate(STATIC, **changes)

    choice = choose([missing], profile())

    assert not choice.accepted
    assert choice.candidate is missing
    assert told in choice.reason


def test_a_latency_past_the_absolute_limit_is_refused_although_float_is_slower() -> (
    None
):
    times = Latency(p50_ms=15, p90_ms=25, p99_ms=30)
    float_times = Latency(p50_ms=40, p90_ms=40, p99_ms=40)
    slow = candidate(STATIC, latency=times, reference_latency=float_times)

    choice = choose([slow], profile())

    assert "p90 latency 25 ms, at most 20 ms" in choice.reason


def test_a_drop_equal_to_the_budget_is_accepted() -> None:
    choice = choose([candidate(STATIC, score=0.89)], profile())

    assert choice.accepted


def test_of_all_misses_the_nearest_is_named() -> None:
    far, near = candidate(STATIC, score=0.5), candidate(HALF, score=0.885)

    choice = choose([far, near], profile())

    assert choice.candidate is near


def test_when_nothing_could_be_measured_every_failure_is_told() -> None:
    failed = Candidate(STATIC, None, "the runtime crashed (SIGSEGV)")

    choice = choose([failed], profile())

    assert choice.candidate is None
    assert "static-u8s8-mse: the runtime crashed (SIGSEGV)" in choice.reason
