from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.data.load import load
from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.data.table import parse_labels
from quarterdeck_controller.optimize.steps import Loaded, LoadRequest, Tensor
from quarterdeck_shared.errors import RejectedError

X = Tensor(name="x", dtype="float32", shape=(None, 3, None))
MASK = Tensor(name="mask", dtype="int64", shape=(None, None))


def bring(folder: Path, *tensors: Tensor, most: int | None = None) -> Loaded:
    out = folder.parent / "out"
    request = LoadRequest(
        source=str(folder), out=out, inputs=tensors or (X,), most=most
    )
    return load(request)


def fill(folder: Path, *shapes: tuple[int, ...]) -> Path:
    """Write one file for each shape, full of its number."""
    folder.mkdir()
    for number, shape in enumerate(shapes):
        np.save(folder / f"s{number}.npy", np.full(shape, number, np.float32))
    return folder


def test_files_are_samples_in_the_order_of_the_numbers_in_their_names(
    tmp_path: Path,
) -> None:
    folder = fill(tmp_path / "d", *[(3, 2)] * 12)

    loaded = bring(folder)

    x = Stored.open(tmp_path / "out").array("x")
    assert loaded.count == 12
    assert x[:, 0, 0].tolist() == list(range(12))


def test_samples_may_have_the_batchs_dimension_and_differ_where_the_model_is_free(
    tmp_path: Path,
) -> None:
    folder = fill(tmp_path / "d", (3, 2), (1, 3, 5), (3, 1))

    bring(folder)

    feeds = Stored.open(tmp_path / "out").batches(4)
    assert [feed["x"].shape for feed in feeds] == [(1, 3, 2), (1, 3, 5), (1, 3, 1)]


def test_several_inputs_come_as_archives(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for number in range(3):
        x, mask = np.ones((3, 4), np.float32), np.arange(4 + number)
        np.savez(folder / f"{number}.npz", x=x, mask=mask)

    loaded = bring(folder, X, MASK)

    feed = Stored.open(tmp_path / "out").sample(2)
    assert loaded.count == 3
    assert (feed["x"].shape, feed["mask"].shape) == ((1, 3, 4), (1, 6))


def test_labels_and_groups_come_from_the_table_whatever_its_order(
    tmp_path: Path,
) -> None:
    folder = fill(tmp_path / "d", (3, 2), (3, 2), (3, 2))
    lines = "file,label,group\ns2.npy,7,bob\ns0.npy,5,ann\ns1.npy,6,ann\n"
    (folder / "labels.csv").write_text(lines, "utf-8")

    loaded = bring(folder, most=2)

    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [5, 7]
    assert np.load(tmp_path / "out" / "groups.npy").tolist() == ["ann", "bob"]
    assert loaded.notes == ("2 of 3 samples were taken, evenly spaced",)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("file,label\ns0.npy,1\n", "has no line for s1.npy"),
        ("file,label\ns0.npy,1\ns1.npy,2\ns2.npy,3\n", "names s2.npy, which is not"),
        ("file,label\ns0.npy,1\ns0.npy,2\n", "names s0.npy more than once"),
        ("name,class\ns0.npy,1\n", "must begin with the line file,label"),
        ("file,label\ns0.npy\n", "line 2 has 1 fields, the first line has 2"),
        ("", "must begin with"),
        ("file,label\n", "names no file"),
        ('file,label\n"s0.npy,1\n', "could not be read"),
    ],
)
def test_a_table_that_does_not_fit_the_files_is_refused(
    tmp_path: Path, table: str, told: str
) -> None:
    folder = fill(tmp_path / "d", (3, 2), (3, 2))
    (folder / "labels.csv").write_text(table, "utf-8")

    with pytest.raises(RejectedError, match=told):
        bring(folder)


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["3", "-1", " 2"], "i", [3, -1, 2]),
        (["3", "0.5"], "f", [3, 0.5]),
        (["1 2 3", "4", ""], "i", [[1, 2, 3], [4, -1, -1], [-1, -1, -1]]),
        (["hello", "3"], "U", ["hello", "3"]),
    ],
)
def test_labels_are_of_the_narrowest_kind_that_fits_all(
    texts: list[str], kind: str, values: list[object]
) -> None:
    found = parse_labels(texts)

    assert found.dtype.kind == kind
    assert found.tolist() == values


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", (3, 2), (4, 2))

    with pytest.raises(RejectedError, match=r"s1.npy: x has shape \[1, 4, 2\]"):
        bring(folder)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", (3, 2), (3, 2))
    (folder / "s1.npy").write_bytes(b"\x93NUMPY broken")

    with pytest.raises(RejectedError, match=r"s1\.npy"):
        bring(folder)


def test_a_folder_of_nothing_is_refused_with_what_it_might_hold(
    tmp_path: Path,
) -> None:
    (tmp_path / "d").mkdir()

    with pytest.raises(RejectedError, match="holds neither"):
        bring(tmp_path / "d")


def test_a_folder_of_both_kinds_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", (3, 2))
    np.savez(folder / "b.npz", x=np.ones((3, 2), np.float32))

    with pytest.raises(RejectedError, match="bring one kind"):
        bring(folder)
