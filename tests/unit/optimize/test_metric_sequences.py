from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_controller.optimize.metric.choose import parse_metric
from quarterdeck_controller.optimize.metric.judge import compare, judge
from quarterdeck_controller.optimize.metric.metric import Array
from quarterdeck_controller.optimize.metric.sequences import Decoder, edit_distance
from quarterdeck_shared.errors import RejectedError

short = st.lists(st.integers(0, 3), max_size=7)


def one_hot(*rows: list[int], classes: int = 5) -> Array:
    return np.asarray(np.eye(classes, dtype=np.float32)[np.array(rows)])


@pytest.mark.parametrize(
    ("given", "wanted", "edits"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("abc", "abc", 0),
    ],
)
def test_edits_are_insertions_deletions_and_replacements(
    given: str, wanted: str, edits: int
) -> None:
    assert edit_distance([*map(ord, given)], [*map(ord, wanted)]) == edits


@given(short, short)
def test_edits_are_those_of_the_textbook(a: list[int], b: list[int]) -> None:
    assert edit_distance(a, b) == _textbook(a, b)


def _textbook(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        _textbook(a[1:], b) + 1,
        _textbook(a, b[1:]) + 1,
        _textbook(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_repeats_are_one_unless_a_blank_is_between() -> None:
    scores = one_hot([0, 1, 1, 0, 1, 2, 2, 0])

    assert Decoder(blank=0).decode(scores) == [(1, 1, 2)]
    assert Decoder(blank=4).decode(scores) == [(0, 1, 0, 1, 2, 0)]


def test_the_error_rate_is_over_all_characters() -> None:
    labels = np.array([[1, 2, 2, 3], [3, -1, -1, -1]])
    theirs = one_hot([1, 2, 0, 2, 3, 0], [3, 3, 0, 0, 0, 0])
    mine = one_hot([1, 2, 2, 2, 3, 0], [3, 3, 0, 0, 4, 4])

    found = compare(parse_metric("cer"), {"y": mine}, labels, {"y": theirs})

    assert found.reference.score == 0
    assert found.variant.score == pytest.approx(2 / 5)
    assert found.variant.values == pytest.approx([1 / 4, 1])
    assert found.drop_points == pytest.approx(40)
    assert found.variant.agreement == 0


def test_exact_is_right_or_wrong() -> None:
    labels = np.array([[1, 2, 2], [3, -1, -1]])
    scores = one_hot([1, 2, 0, 2], [3, 0, 4, 0])

    found = judge(parse_metric("exact:blank=0"), {"y": scores}, labels, {"y": scores})

    assert found.values.tolist() == [1, 0]


def test_exact_without_a_blank_compares_every_labelled_step() -> None:
    labels = np.array([[1, 2, -1], [3, 3, 0]])
    scores = one_hot([1, 2, 4], [3, 2, 0])

    found = judge(parse_metric("exact"), {"y": scores}, labels, {"y": scores})

    assert found.values.tolist() == [1, 0]


def test_exact_without_a_blank_refuses_steps_without_labels() -> None:
    scores = one_hot([1, 2, 4])

    with pytest.raises(RejectedError, match="exact:blank=0"):
        judge(parse_metric("exact"), {"y": scores}, np.array([[1, 2]]), {"y": scores})


def test_texts_are_read_by_the_file_of_characters(tmp_path: Path) -> None:
    charset = tmp_path / "keys.txt"
    charset.write_text("a\nb\nü\n \n", "utf-8")
    labels = np.array(["a b", "üx"])
    scores = one_hot([1, 4, 2, 0], [3, 0, 0, 0])

    found = judge(
        parse_metric(f"cer:charset={charset}"), {"y": scores}, labels, {"y": scores}
    )

    assert found.values == pytest.approx([0, 1 / 2])


def test_texts_without_characters_are_refused() -> None:
    scores = one_hot([1, 2])

    with pytest.raises(RejectedError, match="charset=FILE"):
        judge(parse_metric("cer"), {"y": scores}, np.array(["ab"]), {"y": scores})


def test_samples_of_different_lengths_and_of_a_dimension_of_one_are_decoded() -> None:
    scores = [one_hot([1, 0, 2])[0], one_hot([3])[0][:, None]]

    assert Decoder().decode(scores) == [(1, 2), (3,)]


def test_an_output_of_integers_is_decoded_already() -> None:
    assert Decoder(blank=None).decode(np.array([[4, 2, -1]])) == [(4, 2)]


def test_a_broken_sample_has_every_character_wrong() -> None:
    scores = one_hot([1, 0, 2])
    broken = scores.copy()
    broken[0, 1] = np.nan

    found = compare(
        parse_metric("cer"), {"y": broken}, np.array([[1, 2]]), {"y": scores}
    )

    assert found.variant.score == 1
    assert found.variant.agreement == 0


def test_a_variant_that_never_differs_is_not_proven_the_same_by_few_samples() -> None:
    labels = np.array([[1, 2], [3, 1]])
    scores = one_hot([1, 2], [3, 1])

    found = compare(parse_metric("cer"), {"y": scores.copy()}, labels, {"y": scores})

    assert found.drop_points == 0
    assert found.drop_ci95[0] < -30 < 30 < found.drop_ci95[1]
