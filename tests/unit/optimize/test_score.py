import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.metric.score import (
    bootstrap,
    classes_of,
    paired_difference,
    percentile,
    sample_errors,
    wilson,
)


@settings(deadline=None)
@given(total=st.integers(1, 5000), share=st.floats(0, 1))
def test_the_interval_holds_the_share_and_stays_between_0_and_1(
    total: int, share: float
) -> None:
    count = round(share * total)

    low, high = wilson(count, total)

    assert 0 <= low <= count / total + 1e-12
    assert count / total - 1e-12 <= high <= 1


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(90, 100)

    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_the_interval_of_a_drop_holds_it_and_turns_with_its_sign(
    pairs: list[tuple[bool, bool]],
) -> None:
    first, second = np.array(pairs).T
    drop = first.mean() - second.mean()

    low, high = paired_difference(first, second)

    assert -1 <= low <= drop + 1e-9
    assert drop - 1e-9 <= high <= 1
    assert paired_difference(second, first) == pytest.approx((-high, -low))


def test_the_interval_of_a_drop_is_newcombes() -> None:
    """Counts 20, 12, 2, 16: correlation (320 - 24 - 25) / sqrt(32 18 22 28)."""
    first = np.array([1] * 20 + [1] * 12 + [0] * 2 + [0] * 16, bool)
    second = np.array([1] * 20 + [0] * 12 + [1] * 2 + [0] * 16, bool)

    found = paired_difference(first, second)

    assert found == pytest.approx((0.0562, 0.3292), abs=1e-3)


def test_two_models_that_always_agree_are_not_proven_the_same_by_few_samples() -> None:
    low, high = paired_difference(np.ones(50, bool), np.ones(50, bool))

    assert low < -0.02
    assert high > 0.02


def test_the_interval_of_a_drop_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        first = rng.random(120) < 0.9
        second = first & (rng.random(120) >= 0.06)
        low, high = paired_difference(first, second)
        held += low <= 0.9 * 0.06 <= high

    assert held / 400 > 0.93


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)

    low, high = bootstrap(
        lambda w: float(w @ values / w.sum()), 400, resamples=500, seed=0
    )

    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.04
    )


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]

    assert [percentile(values, share) for share in (0.5, 0.9, 0.99)] == [50, 90, 99]
    assert percentile([7.0], 0.99) == 7


def test_one_number_for_each_sample_tells_no_classes_apart() -> None:
    assert classes_of(np.ones((3, 1))) is None
    assert classes_of(np.ones((3, 2, 4))) is None
    assert classes_of(np.ones((3, 4))) == 4


def test_errors_are_shares_of_each_samples_own_size() -> None:
    reference = np.array([[3.0, 4.0], [30.0, 40.0]])

    assert sample_errors(reference, reference * 1.1) == pytest.approx([0.1, 0.1])
