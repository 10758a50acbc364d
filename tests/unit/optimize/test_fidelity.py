from math import inf

import numpy as np
import pytest

from quarterdeck_controller.optimize.evaluation import GoldenMeasured
from quarterdeck_controller.optimize.golden import ERROR_FLOOR, scale_of
from quarterdeck_controller.optimize.measure.fidelity import (
    HERE,
    MOST_DB,
    decibels,
    fidelity,
    is_faithful,
    loses_db,
    tolerance,
)

EXPECTED = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
NOISE = np.random.default_rng(1).normal(size=(32, 5)).astype(np.float32)
SCALE = scale_of(EXPECTED)


def with_noise(share: float, processor: str = HERE) -> GoldenMeasured:
    return fidelity(processor, EXPECTED, EXPECTED + share * NOISE, SCALE)


def test_noise_of_a_tenth_of_the_scores_is_twenty_decibels() -> None:
    measured = with_noise(0.1)

    assert measured.error == pytest.approx(0.1, rel=0.15)
    assert measured.sqnr_db == pytest.approx(20, abs=1.3)


@pytest.mark.parametrize(
    ("error", "expected"), [(1.0, 0.0), (0.1, 20.0), (0.0, inf), (inf, -inf)]
)
def test_an_error_is_told_in_decibels(error: float, expected: float) -> None:
    assert decibels(error) == pytest.approx(expected)


def test_a_processor_may_lose_a_little() -> None:
    here, there = with_noise(0.05), with_noise(0.06, "Haswell")

    assert loses_db(here, there) == pytest.approx(1.6, abs=0.1)
    assert is_faithful(here, there)


def test_a_processor_that_loses_more_than_two_decibels_is_not_faithful() -> None:
    assert not is_faithful(with_noise(0.05), with_noise(0.065, "Haswell"))


def test_a_processor_that_is_closer_to_float_loses_nothing() -> None:
    assert loses_db(with_noise(0.1), with_noise(0.01, "Haswell")) == 0


def test_rounding_far_below_the_scores_is_no_loss() -> None:
    here, there = with_noise(3e-4), with_noise(2e-3, "cortex-a76")

    assert is_faithful(here, there)


def test_scores_that_are_no_numbers_are_not_faithful() -> None:
    broken = np.full_like(EXPECTED, np.nan)

    there = fidelity("Haswell", EXPECTED, broken, SCALE)

    assert there.sqnr_db == -MOST_DB
    assert not is_faithful(with_noise(0.1), there)


def test_the_tolerance_follows_the_worst_processor() -> None:
    measured = [with_noise(0.05), with_noise(0.12, "Haswell")]

    limit = tolerance(measured)

    assert limit == pytest.approx(1.5 * measured[1].error)


def test_the_tolerance_is_wider_where_no_other_processor_was_tried() -> None:
    here, there = with_noise(0.1), with_noise(0.1, "Haswell")

    assert tolerance([here]) > tolerance([here, there])


def test_the_tolerance_lets_every_processor_pass_that_was_tried() -> None:
    measured = [with_noise(0.2), with_noise(0.3, "Haswell"), with_noise(0.1, "EPYC")]

    assert tolerance(measured) > max(one.error for one in measured)


def test_the_tolerance_never_falls_below_the_floor() -> None:
    assert tolerance([with_noise(0.001)]) == ERROR_FLOOR


def test_without_a_measurement_there_is_no_tolerance() -> None:
    with pytest.raises(ValueError, match="no processor"):
        tolerance([])
