from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.evaluation import Latency
from quarterdeck_controller.optimize.profile import load_profile
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.choose import (
    Candidate,
    Figures,
    choose,
    misses,
)

PROFILE = load_profile("gateway-x86-vnni")
RECIPES = (Recipe("static"), Recipe("dynamic"), Recipe("fp16"))

shares = st.floats(0, 1)
times = st.floats(0.01, 60).map(lambda ms: Latency(p50_ms=ms, p90_ms=ms, p99_ms=ms))
figures = st.builds(
    Figures,
    metric=st.sampled_from(["top1", "agreement"]),
    samples=st.just(1000),
    score=shares,
    reference_score=shares,
    agreement=shares,
    bytes=st.integers(1, 2000),
    reference_bytes=st.just(1000),
    latency=times,
    reference_latency=times,
    peak_memory_mb=st.floats(10, 400),
    reference_peak_memory_mb=st.floats(10, 400),
    golden_agreement=shares,
    golden_error=st.floats(0, 2) | st.just(float("inf")),
)
candidates = st.lists(
    st.builds(
        Candidate, st.sampled_from(RECIPES), figures | st.none(), st.just("it crashed")
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(tried=candidates)
def test_what_is_accepted_is_within_the_budget_and_nothing_within_it_is_refused(
    tried: list[Candidate],
) -> None:
    choice = choose(tried, PROFILE)

    fitting = [c for c in tried if c.figures and not misses(c, PROFILE)]
    assert choice.accepted == bool(fitting)
    assert not choice.accepted or choice.candidate in fitting
    assert choice.reason


@settings(deadline=None)
@given(tried=candidates)
def test_whether_a_class_is_refused_does_not_depend_on_the_order(
    tried: list[Candidate],
) -> None:
    turned = list(reversed(tried))

    assert choose(turned, PROFILE).accepted == choose(tried, PROFILE).accepted
