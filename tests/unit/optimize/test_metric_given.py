from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.metric.choose import parse_metric
from quarterdeck_controller.optimize.metric.judge import Comparison, compare
from quarterdeck_controller.optimize.metric.metric import Array
from quarterdeck_shared.errors import RejectedError

THEIRS = np.eye(4)[[0, 1, 2, 3, 0, 1]]
LABELS = np.array([0, 1, 2, 3, 0, 0])
RIGHT = "return (outputs['y'].argmax(1) == labels)"


def compared(
    tmp_path: Path, body: str, mine: Array = THEIRS, *, more: str = ""
) -> Comparison:
    file = tmp_path / "mine.py"
    code = f"import numpy as np\ndef score(outputs, labels):\n    {body}\n"
    file.write_text(code, "utf-8")
    metric = parse_metric(f"{file}:score{more}")
    return compare(metric, {"y": mine}, LABELS, {"y": THEIRS})


def test_one_number_for_each_sample_is_meaned(tmp_path: Path) -> None:
    found = compared(tmp_path, RIGHT, THEIRS[[1, 1, 2, 3, 0, 1]])

    assert found.reference.score == pytest.approx(5 / 6)
    assert found.variant.values.tolist() == [0, 1, 1, 1, 1, 0]
    assert found.drop_points == pytest.approx(100 / 6)
    assert found.variant.agreement == pytest.approx(5 / 6)


def test_one_number_for_all_samples_is_resampled(tmp_path: Path) -> None:
    body = "return float((outputs['y'].argmax(1) == labels).mean())"

    found = compared(tmp_path, body)

    assert found.variant.score == pytest.approx(5 / 6)
    assert found.variant.ci95[0] < 5 / 6 < found.variant.ci95[1]
    assert found.drop_points == 0
    assert found.drop_ci95[0] < 0 < found.drop_ci95[1]


def test_less_may_be_better_and_the_unit_decibels(tmp_path: Path) -> None:
    body = "return np.full(len(labels), 30 + outputs['y'][0, 0])"

    found = compared(tmp_path, body, THEIRS * 3, more=":better=lower,unit=dB")

    assert found.variant.score == 33
    assert found.drop_points == pytest.approx(20)


def test_a_number_that_is_not_finite_counts_as_the_worst(tmp_path: Path) -> None:
    body = "return np.where(outputs['y'][:, 3] == 1, np.nan, 1.0)"

    assert compared(tmp_path, body).variant.score == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("body", "more", "told"),
    [
        ("return 1 / 0", "", "mine.py, line 3: ZeroDivisionError"),
        ("return 'good'", "", "ValueError"),
        ("return np.ones(3)", "", "returned shape [3] for 6 samples"),
        ("return np.full(6, 7.0)", "", "a share goes from 0 to 1"),
        ("return float('nan')", "", "returned nan"),
        ("return 1", ":better=bigger", "it must be higher or lower"),
        ("return 1", ":unit=furlong", "it must be one of %, dB, other"),
        ("return 1", ":k=1", "takes better, unit, output"),
    ],
)
def test_a_function_that_fails_is_refused_with_what_it_did(
    tmp_path: Path, body: str, more: str, told: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        compared(tmp_path, body, more=more)

    assert told in refused.value.detail
