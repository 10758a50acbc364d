from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.data.split import (
    shared_note,
    shared_rows,
    split,
    thinned,
    thinned_groups,
)
from quarterdeck_controller.optimize.data.stored import Array, Stored, Writer


@settings(deadline=None)
@given(
    count=st.integers(40, 400),
    classes=st.integers(1, 8),
    seed=st.integers(0, 9),
    share=st.sampled_from([0.3, 0.5, 0.7]),
)
def test_every_sample_is_on_one_side_and_every_class_has_its_share_of_both(
    count: int, classes: int, seed: int, share: float
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, count)

    found = split(count, labels=labels, seed=seed, test_share=share)

    assert sorted(found.selection + found.test) == list(range(count))
    assert abs(len(found.test) - share * count) < 1
    for one in range(classes):
        members = labels == one
        assert abs(members[list(found.test)].sum() - share * members.sum()) <= 1


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=40).filter(
        lambda sizes: sum(sizes) >= 40
    ),
    seed=st.integers(0, 9),
)
def test_no_group_is_on_both_sides_and_none_is_empty(
    sizes: list[int], seed: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.arange(len(groups)) % 3

    found = split(len(groups), labels=labels, groups=groups, seed=seed)

    assert not set(groups[list(found.selection)]) & set(groups[list(found.test)])
    assert found.selection
    assert found.test
    assert sorted(found.selection + found.test) == list(range(len(groups)))
    assert abs(len(found.test) - len(found.selection)) <= 2 * max(sizes)


def test_few_samples_serve_both_and_a_sentence_says_what_that_means() -> None:
    found = split(39)

    assert found.selection == found.test == tuple(range(39))
    assert not found.separate
    assert "39 samples" in found.note
    assert "kinder than the field" in found.note


def test_one_group_cannot_be_parted() -> None:
    found = split(100, groups=np.array(["one"] * 100))

    assert not found.separate
    assert "all samples are of one group" in found.note


def test_the_same_seed_gives_the_same_split_and_another_gives_another() -> None:
    assert split(200, seed=1) == split(200, seed=1)
    assert split(200, seed=1) != split(200, seed=2)


@pytest.mark.parametrize(
    "labels",
    [
        np.random.default_rng(0).random(100),
        np.zeros((100, 4), np.int64),
        np.arange(100),
        np.array([f"line {n}" for n in range(100)]),
    ],
)
def test_labels_that_are_no_classes_do_not_keep_a_set_from_being_halved(
    labels: Array,
) -> None:
    found = split(100, labels=labels)

    assert (len(found.selection), len(found.test)) == (50, 50)


def test_a_hundred_thousand_samples_are_split_at_once() -> None:
    groups = np.arange(100_000) // 50

    found = split(100_000, labels=groups % 7, groups=groups)

    assert abs(len(found.test) - 50_000) <= 100


@given(count=st.integers(1, 1000), most=st.integers(1, 1000))
def test_thinning_keeps_the_order_and_takes_nothing_twice(
    count: int, most: int
) -> None:
    rows = thinned(count, most)

    assert len(rows) == min(count, most)
    assert (np.diff(rows) > 0).all()
    assert rows.min(initial=0) >= 0
    assert rows.max(initial=0) < count


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), most=st.integers(1, 99)
)
def test_thinning_groups_takes_them_whole(sizes: list[int], most: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = tuple(range(len(groups)))

    found = thinned_groups(rows, groups, most)

    taken = set(groups[list(found)].tolist())
    assert found == tuple(row for row in rows if groups[row] in taken)
    assert len(found) <= most or len(taken) == 1
    assert found


def test_samples_that_calibrate_and_judge_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((20, 3)), rng.random((30, 3))
    second[[4, 7]] = first[3]

    rows = shared_rows(_store(tmp_path / "a", first), _store(tmp_path / "b", second))

    assert rows == (4, 7)
    assert "2 of 30 evaluation samples" in (shared_note(rows, 30) or "")
    assert shared_note((), 30) is None


def _store(folder: Path, x: Array) -> Stored:
    with Writer(folder) as writer:
        writer.add({"x": x})
    return Stored.open(folder)
