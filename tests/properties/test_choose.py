from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.candidate import Candidate
from quarterdeck_controller.optimize.search.choose import best, fits, front, nearest
from tests.support.candidates import candidate, failed, profile

PROFILE = profile()
RECIPES = (Recipe("static"), Recipe("dynamic"), Recipe("fp16"))

shares = st.floats(0, 1)
measured = st.builds(
    candidate,
    st.sampled_from(RECIPES),
    ratio=st.floats(0.01, 3),
    size=shares.map(lambda share: 0.01 + share),
    labelled=st.booleans(),
    drop_points=st.floats(-2, 20),
    agreement=shares,
    peak_memory_mb=st.floats(10, 4000),
    golden_agreement=shares,
    golden_error=st.floats(0, 2) | st.just(float("inf")),
)
candidates = st.lists(
    measured | st.builds(failed, st.sampled_from(RECIPES), st.just("it crashed")),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(tried=candidates)
def test_what_is_taken_is_within_the_budget_and_nothing_within_it_is_refused(
    tried: list[Candidate],
) -> None:
    taken = best(tried, PROFILE)

    fitting = [one for one in tried if fits(one, PROFILE)]
    assert (taken is not None) == bool(fitting)
    assert taken is None or taken in fitting


@settings(deadline=None)
@given(tried=candidates)
def test_what_is_taken_does_not_depend_on_the_order(tried: list[Candidate]) -> None:
    turned = list(reversed(tried))

    first, second = best(tried, PROFILE), best(turned, PROFILE)
    assert (first is None) == (second is None)
    if first and second and first.figures and second.figures:
        assert first.figures.latency_ratio <= second.figures.latency_ratio * 1.1
        assert first.recipe == second.recipe or first.figures != second.figures


@settings(deadline=None)
@given(tried=candidates)
def test_the_front_holds_a_best_one_of_every_kind(tried: list[Candidate]) -> None:
    found = front(tried)

    seen = [one.figures for one in tried if one.figures]
    kept = [one.figures for one in found if one.figures]
    if seen:
        assert min(one.latency_ratio for one in kept) == min(
            one.latency_ratio for one in seen
        )
        assert min(one.size_ratio for one in kept) == min(
            one.size_ratio for one in seen
        )


@settings(deadline=None)
@given(tried=candidates)
def test_the_nearest_miss_is_a_measured_one(tried: list[Candidate]) -> None:
    found = nearest(tried, PROFILE)

    assert (found is None) == all(one.figures is None for one in tried)
