import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.metric.score import (
    agreeing,
    classes_of,
    percentile,
    wilson,
)
from quarterdeck_controller.optimize.quantize.calibrate import Spread, take_range


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


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]

    assert [percentile(values, share) for share in (0.5, 0.9, 0.99)] == [50, 90, 99]
    assert percentile([7.0], 0.99) == 7


def test_a_score_that_is_not_finite_agrees_with_nothing() -> None:
    reference = np.eye(4, dtype=np.float32)
    scores = reference.copy()
    scores[0, 0] = np.nan
    scores[1, 1] = np.inf

    assert agreeing(reference, scores) == 2


def test_scores_that_are_no_classes_agree_within_a_tenth() -> None:
    reference = np.ones((3, 1), np.float32)

    assert classes_of(reference) is None
    assert agreeing(reference, reference * [[1.05], [1.2], [1.0]]) == 2


def test_an_outlier_widens_the_full_range_but_not_the_one_of_least_error() -> None:
    counts = np.zeros(2048, np.int64)
    counts[:64] = 100_000
    counts[-1] = 1
    spread = Spread(0.0, 100.0, counts)

    assert take_range(spread, "minmax") == (0, 100)
    assert take_range(spread, "mse")[1] < 5
    assert take_range(spread, "percentile")[1] < 5


def test_a_constant_tensor_keeps_its_range() -> None:
    spread = Spread(2.0, 2.0, np.ones(2048, np.int64))

    assert take_range(spread, "mse") == (2, 2)
