from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.data.stored import Array, Stored, Writer


def _write(folder: Path, *feeds: dict[str, Array], whole: str = "") -> Stored:
    with Writer(folder, frozenset(filter(None, [whole]))) as writer:
        for feed in feeds:
            writer.add(feed)
    return Stored.open(folder)


def test_what_is_written_in_batches_is_read_as_one_array(tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(6, 2, 2)

    stored = _write(tmp_path, {"x": x[:4]}, {"x": x[4:]})

    assert np.array_equal(stored.array("x"), x)
    assert [len(feed["x"]) for feed in stored.batches(4)] == [4, 2]
    assert np.array_equal(next(stored.batches(2, [5, 0]))["x"], x[[5, 0]])


def test_samples_that_differ_in_shape_come_one_by_one(tmp_path: Path) -> None:
    shapes = [(1, 3), (1, 5), (1, 0)]

    stored = _write(tmp_path, *({"x": np.ones(shape)} for shape in shapes))

    assert [feed["x"].shape for feed in stored.batches(8)] == shapes
    assert not stored.uniform


def test_samples_may_differ_in_rank(tmp_path: Path) -> None:
    shapes = [(1,), (1, 2), (1, 2, 3), (1, 0, 4)]

    stored = _write(tmp_path, *({"x": np.ones(shape)} for shape in shapes))

    assert [feed["x"].shape for feed in stored.batches(1)] == shapes
    assert [one.shape for one in stored.samples("x")] == [s[1:] for s in shapes]


def test_an_array_that_is_fed_whole_gets_no_dimension_for_a_batch(
    tmp_path: Path,
) -> None:
    feed = {"x": np.ones((3, 4)), "h": np.zeros((3, 2, 1, 5))}

    stored = _write(tmp_path, feed, whole="h")

    shapes = [(f["x"].shape, f["h"].shape) for f in stored.batches(8)]
    assert shapes == [((1, 4), (2, 1, 5))] * 3
    assert stored.whole == {"h"}
    assert stored.array("h").shape == (3, 2, 1, 5)


def test_an_array_that_changes_its_type_on_the_way_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x is <f8 after <f4"):
        _write(tmp_path, {"x": np.ones((1, 2), np.float32)}, {"x": np.ones((1, 2))})
