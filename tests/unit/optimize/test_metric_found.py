from typing import TYPE_CHECKING

import numpy as np
import pytest

from quarterdeck_controller.optimize.metric.choose import parse_metric
from quarterdeck_controller.optimize.metric.detection import overlaps
from quarterdeck_controller.optimize.metric.judge import compare, judge
from quarterdeck_shared.errors import RejectedError

if TYPE_CHECKING:
    from quarterdeck_controller.optimize.metric.metric import Outputs

AROUND = np.array(
    [[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.8], [-1, 0.05], [0.99, 0]], np.float32
)
PAIRS = np.array([0, 0, 1, 1, 2, 1])


def test_recall_is_the_share_that_finds_its_like_among_the_nearest() -> None:
    found = judge(parse_metric("recall"), {"y": AROUND}, PAIRS, {"y": AROUND})

    assert found.score == pytest.approx(3 / 5)
    assert found.values.tolist() == [0, 1, 1, 1, 0, 0]
    assert found.per_class == ()


def test_recall_at_more_finds_more() -> None:
    outputs = {"y": AROUND}

    assert judge(parse_metric("recall:k=2"), outputs, PAIRS, outputs).score == 4 / 5
    assert judge(parse_metric("recall:k=5"), outputs, PAIRS, outputs).score == 1


def test_a_broken_embedding_finds_nothing_and_is_not_found() -> None:
    broken = AROUND.copy()
    broken[2] = np.nan

    found = compare(parse_metric("recall"), {"y": broken}, PAIRS, {"y": AROUND})

    assert found.variant.values[[2, 3]].tolist() == [0, 0]
    assert found.variant.broken == 1


def test_boxes_overlap_by_their_intersection_over_their_union() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [2, 2, 1, 1]])

    assert overlaps(boxes, boxes)[0] == pytest.approx([1, 1 / 7, 0, 0])


WANTED = np.array(
    [
        [[0, 0, 0, 10, 10], [0, 20, 20, 30, 30]],
        [[1, 0, 0, 10, 10], [-1, -1, -1, -1, -1]],
    ],
    np.float32,
)


def _rows(
    *rows: tuple[float, ...],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(len(rows), 6)


def test_average_precision_is_the_area_under_the_monotone_curve() -> None:
    """Class 0: hit, miss, hit of two boxes is 1/2 + 1/2 2/3; class 1 is missed."""
    found: Outputs = {
        "y": [
            _rows(
                (0, 0, 10, 10, 0.9, 0),
                (50, 50, 60, 60, 0.8, 0),
                (20, 20, 30, 31, 0.7, 0),
            ),
            _rows((0, 0, 10, 10, 0.9, 0)),
        ]
    }
    sure: Outputs = {"y": [found["y"][0], _rows((0, 0, 10, 10, 0.3, 1))]}

    missed = judge(parse_metric("map"), sure, WANTED, sure)
    wrong = judge(parse_metric("map"), found, WANTED, found)

    assert missed.score == pytest.approx((1 / 2 + 1 / 2 * 2 / 3 + 1) / 2)
    assert [c.score for c in missed.per_class] == pytest.approx([5 / 6, 1])
    assert wrong.per_class[1].score == 0


def test_a_box_is_found_once() -> None:
    twice = {"y": [_rows((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0))]}
    wanted = WANTED[:1, :1]

    found = judge(parse_metric("map"), twice, wanted, twice)

    assert found.score == 1
    assert judge(parse_metric("map"), twice, WANTED[:1], twice).score == 0.5


def test_boxes_scores_and_classes_may_be_outputs_of_their_own() -> None:
    outputs = {
        "boxes": np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], np.float32),
        "scores": np.array([[0.9, 0.8]], np.float32),
        "labels": np.array([[0, 0]]),
    }
    table = {
        "b": outputs["boxes"],
        "s": np.array([[[0.9, 0], [0.8, 0]]], np.float32),
    }

    named = parse_metric("map:boxes=b,scores=s")

    assert judge(parse_metric("map"), outputs, WANTED[:1], outputs).score == 1
    assert judge(named, table, WANTED[:1], table).score == 1


def test_detections_agree_where_every_clear_one_has_its_like() -> None:
    theirs: Outputs = {
        "y": [_rows((0, 0, 10, 10, 0.9, 0)), _rows((0, 0, 10, 10, 0.9, 1))]
    }
    mine: Outputs = {
        "y": [
            _rows((0, 0, 10, 9, 0.8, 0), (50, 50, 60, 60, 0.1, 0)),
            _rows((0, 0, 10, 10, 0.9, 1), (50, 50, 60, 60, 0.9, 1)),
        ]
    }

    found = compare(parse_metric("map"), mine, WANTED, theirs)

    assert found.variant.agrees.tolist() == [True, False]


def test_labels_that_are_no_boxes_are_refused() -> None:
    outputs: Outputs = {"y": [_rows((0, 0, 10, 10, 0.9, 0))]}

    with pytest.raises(RejectedError, match="class, x1, y1, x2, y2"):
        judge(parse_metric("map"), outputs, np.zeros(1, np.int64), outputs)
