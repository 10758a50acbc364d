import numpy as np
import pytest

from quarterdeck_controller.optimize.metric.choose import parse_metric
from quarterdeck_controller.optimize.metric.judge import Comparison, compare
from quarterdeck_controller.optimize.metric.metric import Array, Outputs


def compared(
    name: str, mine: Array, theirs: Array, labels: Array | None = None
) -> Comparison:
    return compare(parse_metric(name), {"y": mine}, labels, {"y": theirs})


def test_classes_agree_by_the_top_one() -> None:
    theirs = np.eye(4)
    mine = theirs[[0, 1, 2, 0]]

    found = compared("agreement", mine, theirs)

    assert found.reference.score == 1
    assert found.variant.score == found.variant.agreement == 0.75


def test_scores_that_are_no_classes_agree_within_a_tenth() -> None:
    theirs = np.ones((3, 1), np.float32)

    found = compared("agreement", theirs * [[1.05], [1.2], [1.0]], theirs)

    assert found.variant.score == pytest.approx(2 / 3)


def test_closeness_is_one_less_the_relative_error() -> None:
    theirs = np.array([[3.0, 4.0], [1.0, 0.0]])

    found = compared("closeness", theirs * [[1.1], [5]], theirs)

    assert found.variant.values == pytest.approx([0.9, 0])
    assert found.drop_points == pytest.approx(55)


def test_cosine_is_of_the_whole_output() -> None:
    theirs = np.array([[1.0, 0], [0, 2], [0, 0]])
    mine = np.array([[1.0, 1], [0, -3], [0, 0]])

    found = compared("cosine", mine, theirs)

    assert found.variant.values == pytest.approx([2**-0.5, 0, 1])
    assert found.variant.agreement == pytest.approx(1 / 3)


def test_outputs_of_another_shape_are_like_nothing() -> None:
    theirs: Outputs = {"y": [np.ones((2, 3)), np.ones((4, 3))]}
    mine: Outputs = {"y": [np.ones((2, 3)), np.ones((5, 3))]}

    found = compare(parse_metric("closeness"), mine, None, theirs)

    assert found.variant.score == found.variant.agreement == 0.5


def test_rmse_is_the_root_over_all_samples_and_a_point_a_percent_of_floats() -> None:
    labels = np.zeros((2, 2))
    theirs, mine = np.array([[1.0, 1], [7, 7]]), np.array([[1.0, 1], [8, 8]])

    found = compared("rmse", mine, theirs, labels)

    assert found.reference.score == pytest.approx(5)
    assert found.variant.score == pytest.approx(32.5**0.5)
    assert found.drop_points == pytest.approx(100 * (32.5**0.5 / 5 - 1))


def test_one_number_a_sample_may_come_with_a_dimension_more() -> None:
    found = compared("rmse", np.ones((4, 1)), np.ones((4, 1)), np.ones(4))

    assert found.variant.score == found.drop_points == 0


def test_si_sdr_is_of_energies_after_the_best_scale() -> None:
    """A target of energy 4 with an error of energy 1 that is orthogonal to it."""
    target = np.array([[1.0, -1, 1, -1]])
    error = np.array([[0.5, 0.5, -0.5, -0.5]])

    found = compared("sisdr", 3 * (target + error) + 7, target, target)

    assert found.variant.score == pytest.approx(10 * np.log10(4))
    assert found.reference.score == 100
    assert found.drop_points == pytest.approx(10 * (100 - 10 * np.log10(4)))


@pytest.mark.parametrize(("name", "worst"), [("sisdr", -100), ("rmse", 20)])
def test_a_broken_estimate_counts_as_the_worst(name: str, worst: float) -> None:
    labels = np.array([[2.0, -2.0]])

    found = compared(name, np.array([[np.nan, 1]]), labels, labels)

    assert found.variant.score == worst
    assert np.isfinite(found.drop_points)
    assert found.variant.broken == 1
