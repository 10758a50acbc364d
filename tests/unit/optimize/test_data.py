from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.data.samples import (
    Samples,
    check_label_range,
    fit,
    load_samples,
    thin,
)
from quarterdeck_controller.optimize.steps import Tensor
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

X = Tensor(name="x", dtype="float32", shape=(None, 3))
ID = Tensor(name="id", dtype="int64", shape=(1,))
GOOD = np.ones((4, 3), np.float32)


def test_a_single_array_of_any_name_serves_a_single_input() -> None:
    fitted = fit(Samples({"pixels": GOOD}), [X])

    assert list(fitted.inputs) == ["x"]


def test_inputs_come_in_the_models_order_and_others_are_left_out() -> None:
    ids = np.zeros(4, np.int64)

    fitted = fit(Samples({"more": GOOD, "id": ids, "x": GOOD}), [X, ID])

    assert list(fitted.inputs) == ["x", "id"]


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (
            Samples({"x": GOOD.astype(np.float64)}),
            "x is float64, the model takes float32",
        ),
        (Samples({"x": GOOD.astype(np.uint8)}), "x is uint8"),
        (
            Samples({"x": np.ones((4, 5), np.float32)}),
            r"[4, 5], the model takes [N, 3]",
        ),
        (Samples({"x": np.ones((4, 3, 1), np.float32)}), "[4, 3, 1]"),
        (Samples({"x": np.array(1, np.float32)}), "shape []"),
        (Samples({"x": GOOD[:0]}), "no samples"),
        (Samples({}), "no array for input x"),
        (Samples({"x": GOOD * np.nan}), "NaN or infinity in sample 0"),
        (Samples({"x": GOOD}, np.zeros(3, np.int64)), "shape [3], there are 4 samples"),
        (Samples({"x": GOOD}, np.zeros(4)), "labels are float64"),
        (Samples({"x": GOOD}, np.zeros((4, 1), np.int64)), "shape [4, 1]"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_both_values(
    samples: Samples, told: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        fit(samples, [X])

    assert refused.value.code is Code.DATA_INVALID
    assert told in refused.value.detail


def test_a_missing_input_is_named_with_what_was_brought() -> None:
    with pytest.raises(
        RejectedError, match="input id; the model takes x, id, the data"
    ):
        fit(Samples({"x": GOOD, "ids": GOOD}), [X, ID])


def test_inputs_of_different_counts_are_refused() -> None:
    with pytest.raises(RejectedError, match="different sample counts"):
        fit(Samples({"x": GOOD, "id": np.zeros(3, np.int64)}), [X, ID])


@pytest.mark.parametrize(
    ("label", "classes", "told"),
    [(7, 7, "from 7 to 7"), (-1, 7, "from -1"), (0, None, "leave the labels out")],
)
def test_labels_that_name_no_class_are_refused(
    label: int, classes: int | None, told: str
) -> None:
    samples = Samples({"x": GOOD}, np.full(4, label))

    with pytest.raises(RejectedError, match=told):
        check_label_range(samples, classes)


def test_thinning_keeps_samples_from_all_over() -> None:
    samples = Samples({"x": np.arange(100)}, np.arange(100))

    thinned = thin(samples, 5)

    assert thinned.inputs["x"].tolist() == [0, 24, 49, 74, 99]
    assert thinned.labels is not None
    assert thinned.labels.tolist() == [0, 24, 49, 74, 99]


def test_a_file_gives_inputs_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=GOOD, labels=np.arange(4))

    samples = load_samples(tmp_path / "d.npz")

    assert list(samples.inputs) == ["x"]
    assert samples.labels is not None


def _pickled(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}], dtype=object))


def _single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, GOOD)


@pytest.mark.parametrize(
    "make",
    [
        _pickled,
        _single,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(b"PK\x03\x04broken"),
        lambda path: path.mkdir(),
        Path.exists,
    ],
)
def test_a_file_that_is_no_archive_of_plain_arrays_is_refused(
    tmp_path: Path, make: object
) -> None:
    path = tmp_path / "d.npz"
    assert callable(make)
    make(path)

    with pytest.raises(RejectedError) as refused:
        load_samples(path)

    assert refused.value.code is Code.DATA_INVALID
    assert str(path) in refused.value.detail
