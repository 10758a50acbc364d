import numpy as np
import pytest

from quarterdeck_controller.optimize.metric.choose import choose_metric, parse_metric
from quarterdeck_controller.optimize.metric.judge import Judged, compare, judge
from quarterdeck_controller.optimize.metric.metric import Array
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

SCORES = np.array(
    [[9, 1, 0], [1, 9, 2], [2, 3, 9], [8, 9, 1], [9, 8, 7], [1, 9, 8]], np.float32
)
LABELS = np.array([0, 1, 2, 0, 2, 2])


def judged(name: str, scores: Array, labels: Array | None = None) -> Judged:
    return judge(parse_metric(name), {"y": scores}, labels, {"y": scores})


def test_top_1_is_the_share_of_best_scores_that_are_the_label() -> None:
    found = judged("top1", SCORES, LABELS)

    assert found.score == pytest.approx(3 / 6)
    assert found.values.tolist() == [1, 1, 1, 0, 0, 0]
    assert [(c.name, c.samples, c.score) for c in found.per_class] == [
        ("0", 2, 0.5),
        ("1", 1, 1.0),
        ("2", 3, pytest.approx(1 / 3)),
    ]


def test_top_k_takes_the_k_best() -> None:
    assert judged("topk:k=2", SCORES, LABELS).score == pytest.approx(5 / 6)
    assert judged("topk:k=1", SCORES, LABELS).score == pytest.approx(3 / 6)


@pytest.mark.parametrize("k", [3, 9])
def test_a_k_by_which_no_answer_could_be_wrong_is_refused(k: int) -> None:
    with pytest.raises(RejectedError, match=f"best {k} of 3 classes are never wrong"):
        judged(f"topk:k={k}", SCORES, LABELS)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            LABELS[:, None],
            r"bring the number of the class as \[samples\], labels\[:, 0\]",
        ),
        (
            np.eye(3, dtype=np.int64)[LABELS],
            r"bring its number, labels.argmax\(axis=1\)",
        ),
        (LABELS.astype(np.float32), r"save them with .astype\('int64'\)"),
    ],
)
def test_class_numbers_in_another_shape_are_not_taken_for_something_else(
    labels: Array, told: str
) -> None:
    with pytest.raises(RejectedError, match=told):
        choose_metric(None, labels, SCORES.shape)


def test_f1_is_the_mean_over_classes_of_precision_and_recall() -> None:
    """Named 0 1 2 1 0 1 for 0 1 2 0 2 2: F1 of 1/2, 1/2 and 1/2."""
    found = judged("f1", SCORES, LABELS)

    assert found.score == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert [c.score for c in found.per_class] == pytest.approx([1 / 2, 1 / 2, 1 / 2])


def test_f1_counts_a_class_that_is_named_and_never_labelled() -> None:
    scores = np.eye(3)[[0, 0, 2, 1]]

    found = judged("f1", scores, np.array([0, 0, 0, 1]))

    assert found.score == pytest.approx((2 * 2 / 5 + 1 + 0) / 3)


def test_classes_are_named_where_names_are_known() -> None:
    found = judge(
        parse_metric("top1"),
        {"y": SCORES},
        LABELS,
        {"y": SCORES},
        names=["ant", "bee"],
    )

    assert [one.name for one in found.per_class] == ["ant", "bee", "2"]


def test_a_model_of_one_number_is_held_against_a_threshold() -> None:
    logits = np.array([[-2.0], [3.0], [0.4], [-0.1]])
    labels = np.array([0, 1, 0, 1])

    assert judged("top1", logits, labels).score == 0.5
    assert judged("top1:threshold=0.5", logits, labels).score == 0.75
    assert judged("f1", logits, labels).score == pytest.approx(0.5)


def test_probabilities_of_one_number_are_held_against_a_half() -> None:
    chances = np.array([0.2, 0.9, 0.4, 0.6])

    assert judged("top1", chances, np.array([0, 1, 0, 1])).score == 1


def test_places_without_a_label_take_no_part() -> None:
    scores = np.eye(3)[[[0, 1, 2], [1, 1, 1]]]
    labels = np.array([[0, 2, -1], [-1, -1, -1]])

    found = judged("top1", scores, labels)

    assert found.score == 0.5
    assert found.values.tolist() == [0.5, 0]


def test_pixels_have_their_classes_after_the_samples() -> None:
    labels = np.array([[[0, 1], [2, 3]], [[3, 3], [3, 3]]])
    scores = np.moveaxis(np.eye(5)[[[[0, 1], [2, 2]], [[3, 3], [3, 3]]]], -1, 1)

    assert judged("top1", scores, labels).score == pytest.approx((3 / 4 + 1) / 2)


def test_samples_of_different_lengths_are_judged_place_by_place() -> None:
    scores = [np.eye(3)[[0, 1]], np.eye(3)[[2, 2, 0]]]
    labels = np.array([[0, 1, -1], [2, 1, 0]])

    found = judge(parse_metric("top1"), {"y": scores}, labels, {"y": scores})

    assert found.score == pytest.approx((1 + 2 / 3) / 2)
    assert found.agreement == 1


def test_scores_that_are_not_finite_are_wrong_agree_with_nothing_and_are_said() -> None:
    scores = np.eye(4, dtype=np.float32)
    broken = scores.copy()
    broken[0, 0], broken[1, 1] = np.nan, np.inf

    found = compare(
        parse_metric("top1"), {"y": broken}, np.arange(4), {"y": scores}
    ).variant

    assert (found.score, found.agreement, found.broken) == (0.5, 0.5, 2)
    assert found.notes == (
        "2 of 4 samples gave outputs that are not finite numbers; they count as wrong",
    )


def test_a_drop_of_a_share_is_in_percentage_points() -> None:
    worse = SCORES.copy()
    worse[0] = [0, 1, 9]

    found = compare(parse_metric("top1"), {"y": worse}, LABELS, {"y": SCORES})

    assert found.drop_points == pytest.approx(100 / 6)
    assert found.drop_ci95[0] <= found.drop_points <= found.drop_ci95[1]
    assert found.variant.agreement == pytest.approx(5 / 6)


def test_the_output_to_judge_can_be_named() -> None:
    outputs = {"features": SCORES[:, :2], "logits": SCORES}

    found = judge(parse_metric("top1:output=logits"), outputs, LABELS, outputs)

    assert found.score == 0.5


@pytest.mark.parametrize(
    ("name", "labels", "told"),
    [
        ("top1", np.array([0, 1, 2, 3, 0, 0]), "from 0 to 3, the model has 3 classes"),
        ("top1", np.array([0, 1, 2, -1, 0, 0]), "from -1"),
        ("top1", np.zeros(5, np.int64), "5 labels for 6 outputs"),
        ("top1", np.zeros(6), "labels are float64"),
        ("top1", np.array(["a"] * 6), "takes integers"),
        ("top1", None, "needs labels"),
        ("top1", np.zeros((6, 2), np.int64), "bring one for each place"),
        ("f1", np.zeros((6, 3), np.int64), "one integer label"),
        ("top1:output=z", LABELS, "judges the output z, the model gives y"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_both_values(
    name: str, labels: Array | None, told: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        judged(name, SCORES, labels)

    assert refused.value.code is Code.DATA_INVALID
    assert told in refused.value.detail


INTS = np.arange(6) % 2


@pytest.mark.parametrize(
    ("labels", "shape", "name"),
    [
        (INTS, (6, 4), "top1"),
        (INTS, (6, 1), "top1"),
        (INTS, (6,), "top1"),
        (np.arange(6), (6, 1), "rmse"),
        (np.zeros((6, 5), np.int64), (6, 5, 9), "top1"),
        (np.zeros((6, 5), np.int64), (6, 40, 9), "cer"),
        (np.full((6, 40), -1), (6, 40, 9), "cer"),
        (np.zeros((6, 5), np.int64), None, "cer"),
        (np.zeros((6, 8, 8), np.int64), (6, 3, 8, 8), "top1"),
        (np.zeros(6), (6, 1), "rmse"),
        (None, (6, 4), "agreement"),
        (None, (6, 1), "closeness"),
        (None, (6, 4, 4), "closeness"),
        (None, None, "closeness"),
    ],
)
def test_what_fits_the_data_judges_where_nothing_is_named(
    labels: Array | None, shape: tuple[int, ...] | None, name: str
) -> None:
    assert choose_metric(None, labels, shape).about.name == name


@pytest.mark.parametrize(
    ("labels", "shape"), [(INTS, (6, 4, 4)), (np.array(["a"] * 6), (6, 40, 9))]
)
def test_labels_that_no_metric_goes_with_are_refused_with_what_to_do(
    labels: Array, shape: tuple[int, ...]
) -> None:
    with pytest.raises(RejectedError, match="leave the labels out"):
        choose_metric(None, labels, shape)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("accuracy", "there are top1, topk"),
        ("topk:k=0", "k is 0"),
        ("topk:k=x", "invalid literal"),
        ("topk:n=3", "takes k, output as key=value, not n=3"),
        ("topk:3", "not 3"),
        ("map:iou=2", "iou is 2.0"),
        ("cer:charset=/nowhere", "could not be read"),
        ("nowhere.py:score", "there is no file nowhere.py"),
    ],
)
def test_a_metric_that_there_is_not_is_refused(name: str, told: str) -> None:
    with pytest.raises(RejectedError) as refused:
        parse_metric(name)

    assert told in refused.value.detail
