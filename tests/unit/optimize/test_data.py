import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.data.load import load
from quarterdeck_controller.optimize.data.samples import Array, Samples, save
from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.steps import Loaded, LoadRequest, Tensor
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

X = Tensor(name="x", dtype="float32", shape=(None, 3))
ID = Tensor(name="id", dtype="int64", shape=(1,))
GOOD = np.ones((4, 3), np.float32)


def bring(
    folder: Path, source: Path | Samples, *tensors: Tensor, most: int | None = None
) -> Loaded:
    """Load ``source`` into ``folder / "out"``."""
    if isinstance(source, Samples):
        source = save(source, folder / "d.npz")
    request = LoadRequest(
        source=str(source), out=folder / "out", inputs=tensors or (X,), most=most
    )
    return load(request)


def stored(folder: Path) -> Stored:
    return Stored.open(folder / "out")


def labels(folder: Path) -> Array:
    return np.asarray(np.load(folder / "out" / "labels.npy"))


def test_a_single_array_of_any_name_serves_a_single_input(tmp_path: Path) -> None:
    bring(tmp_path, Samples({"pixels": GOOD}))

    assert stored(tmp_path).names == ("x",)
    assert np.array_equal(stored(tmp_path).array("x"), GOOD)


def test_inputs_come_in_the_models_order_and_what_is_left_out_is_said(
    tmp_path: Path,
) -> None:
    ids = np.zeros(4, np.int64)

    loaded = bring(tmp_path, Samples({"more": GOOD, "id": ids, "x": GOOD}), X, ID)

    assert stored(tmp_path).names == ("x", "id")
    assert "not used, as no input of the model is called so: more" in loaded.notes


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (
            Samples({"x": GOOD.astype(np.float64)}),
            "x is float64, the model takes float32; save it with .astype('float32')",
        ),
        (Samples({"x": GOOD.astype(np.uint8)}), "x is uint8"),
        (
            Samples({"x": np.ones((4, 5), np.float32)}),
            "[4, 5], the model takes [N, 3]",
        ),
        (Samples({"x": np.ones((4, 3, 1), np.float32)}), "[4, 3, 1]"),
        (Samples({"x": np.array(1, np.float32)}), "shape []"),
        (Samples({"x": GOOD[:0]}), "no samples"),
        (Samples({}), "no array for input x"),
        (Samples({"x": GOOD * np.nan}), "NaN or infinity in sample 0"),
        (Samples({"x": GOOD}, np.zeros(3, np.int64)), "shape [3], there are 4 samples"),
        (Samples({"x": GOOD}, np.array(3)), "labels have shape []"),
        (Samples({"x": GOOD}, np.full(4, np.nan)), "labels hold NaN or infinity"),
        (Samples({"x": GOOD}, np.zeros(4, complex)), "neither numbers nor text"),
        (
            Samples({"x": GOOD}, None, np.zeros((4, 2), np.int64)),
            "bring one integer or text a sample",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused_with_both_values(
    tmp_path: Path, samples: Samples, told: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        bring(tmp_path, samples)

    assert refused.value.code is Code.DATA_INVALID
    assert told in refused.value.detail


def test_a_missing_input_is_named_with_what_was_brought(tmp_path: Path) -> None:
    with pytest.raises(
        RejectedError, match="input id; the model takes x, id, the data"
    ):
        bring(tmp_path, Samples({"x": GOOD, "ids": GOOD}), X, ID)


def test_inputs_of_different_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="different sample counts"):
        bring(tmp_path, Samples({"x": GOOD, "id": np.zeros(3, np.int64)}), X, ID)


def test_an_input_called_labels_is_written_with_a_prefix(tmp_path: Path) -> None:
    numbers = Tensor(name="labels", dtype="int64", shape=(None,))
    inputs: dict[str, Array] = {"x": GOOD, "labels": np.arange(4)}

    bring(tmp_path, Samples(inputs, np.arange(4) + 10), X, numbers)

    assert stored(tmp_path).array("labels").tolist() == [0, 1, 2, 3]
    assert labels(tmp_path).tolist() == [10, 11, 12, 13]


def test_an_input_called_labels_without_the_prefix_is_refused_with_the_cure(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "d.npz", x=GOOD, labels=np.arange(4))
    numbers = Tensor(name="labels", dtype="int64", shape=(None,))

    with pytest.raises(RejectedError, match="call that array input:labels"):
        bring(tmp_path, tmp_path / "d.npz", X, numbers)


@pytest.mark.parametrize(
    "given",
    [
        np.arange(4),
        np.array([0.5, 1, 2, 3]),
        np.array(["yes", "no", "", "perhaps"]),
        np.arange(24).reshape(4, 3, 2),
        np.array([True, False, True, False]),
    ],
)
def test_labels_may_be_of_any_type_and_shape(tmp_path: Path, given: Array) -> None:
    loaded = bring(tmp_path, Samples({"x": GOOD}, given))

    assert loaded.labels
    assert np.array_equal(labels(tmp_path), given)


def test_groups_are_kept_beside_the_samples(tmp_path: Path) -> None:
    loaded = bring(tmp_path, Samples({"x": GOOD}, None, np.array(["a", "a", "b", "c"])))

    assert (loaded.labels, loaded.groups) == (False, True)
    assert np.load(tmp_path / "out" / "groups.npy").tolist() == ["a", "a", "b", "c"]


def test_thinning_takes_samples_from_all_over_and_says_so(tmp_path: Path) -> None:
    x = np.repeat(np.arange(100, dtype=np.float32)[:, None], 3, axis=1)

    loaded = bring(tmp_path, Samples({"x": x}, np.arange(100)), most=5)

    assert stored(tmp_path).array("x")[:, 0].tolist() == [0, 24, 49, 74, 99]
    assert labels(tmp_path).tolist() == [0, 24, 49, 74, 99]
    assert loaded.notes == ("5 of 100 samples were taken, evenly spaced",)


def test_a_single_sample_is_taken_with_a_word_on_what_it_proves(tmp_path: Path) -> None:
    loaded = bring(tmp_path, Samples({"x": GOOD[:1]}))

    assert loaded.count == 1
    assert loaded.notes == ("there is a single sample, which proves little",)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_any_layout_of_the_numbers_gives_the_same_samples(
    tmp_path: Path, order: str, dtype: str, compressed: bool
) -> None:
    x = np.random.default_rng(0).random((50, 3), np.float32)
    laid = np.array(x, dtype=dtype, order="F" if order == "F" else "C")
    (np.savez_compressed if compressed else np.savez)(tmp_path / "d.npz", x=laid)

    loaded = bring(tmp_path, tmp_path / "d.npz")

    assert np.array_equal(stored(tmp_path).array("x"), x)
    assert loaded.sha256 == _digest_of_plain(tmp_path / "other", x)
    assert not list((tmp_path / "out").glob("*.tmp"))


def _digest_of_plain(folder: Path, x: Array) -> str:
    folder.mkdir()
    return bring(folder, Samples({"x": x})).sha256


def test_a_file_larger_than_a_chunk_is_read_whole_and_in_order(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(0).random((900, 3, 1024), np.float32)
    wide = Tensor(name="x", dtype="float32", shape=(None, 3, None))

    bring(tmp_path, Samples({"x": x}, np.arange(900)), wide)

    assert np.array_equal(stored(tmp_path).array("x"), x)
    assert labels(tmp_path).tolist() == list(range(900))


def test_states_and_numbers_of_no_dimension_are_fed_whole(tmp_path: Path) -> None:
    state = Tensor(name="h", dtype="float32", shape=(2, 1, 5))
    rate = Tensor(name="sr", dtype="int64", shape=())
    inputs = {
        "x": GOOD,
        "h": np.zeros((4, 2, 1, 5), np.float32),
        "sr": np.full(4, 16000),
    }

    bring(tmp_path, Samples(inputs), X, state, rate)

    feed = stored(tmp_path).sample(0)
    assert {name: array.shape for name, array in feed.items()} == {
        "x": (1, 3),
        "h": (2, 1, 5),
        "sr": (),
    }
    assert len(list(stored(tmp_path).batches(32))) == 4


def test_one_array_in_its_own_file_serves_a_single_input(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", GOOD)

    loaded = bring(tmp_path, tmp_path / "d.npy")

    assert (loaded.count, loaded.labels) == (4, False)


def test_the_digest_tells_samples_labels_and_groups_apart(tmp_path: Path) -> None:
    several = [
        Samples({"x": GOOD}),
        Samples({"x": GOOD * 2}),
        Samples({"x": GOOD}, np.zeros(4, np.int64)),
        Samples({"x": GOOD}, np.ones(4, np.int64)),
        Samples({"x": GOOD}, None, np.zeros(4, np.int64)),
    ]
    folders = [tmp_path / str(number) for number in range(len(several))]
    for folder in folders:
        folder.mkdir()

    found = [bring(a, b).sha256 for a, b in zip(folders, several, strict=True)]

    assert len(set(found)) == len(several)


def _pickled(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}], dtype=object))


def _truncated(path: Path) -> None:
    np.savez(path, x=GOOD)
    path.write_bytes(path.read_bytes()[:-60])


def _flipped(path: Path) -> None:
    np.savez_compressed(path, x=np.random.default_rng(0).random((99, 3)))
    data = bytearray(path.read_bytes())
    data[400] ^= 0xFF
    path.write_bytes(bytes(data))


def _header_of_more(path: Path) -> None:
    """An array that says to have a thousand times as many samples as are there."""
    member = io.BytesIO()
    np.save(member, GOOD)
    data = member.getvalue().replace(b"(4, 3), ", b"(4000,3)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", data)


def _no_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _structured(path: Path) -> None:
    np.savez(path, x=np.zeros(4, [("a", "f4")]))


def _encrypted(path: Path) -> None:
    np.savez(path, x=GOOD)
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        where = data.index(mark) + at
        data[where : where + 2] = struct.pack("<H", 1)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "make",
    [
        _pickled,
        _truncated,
        _flipped,
        _header_of_more,
        _no_array,
        _structured,
        _encrypted,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(b"PK\x03\x04broken"),
        lambda path: path.write_bytes(b"\x93NUMPY"),
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
        bring(tmp_path, path)

    assert refused.value.code is Code.DATA_INVALID
    assert str(path) in refused.value.detail


def test_a_bomb_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        member = io.BytesIO()
        np.save(member, np.zeros((1 << 20, 3), np.float32))
        archive.writestr("x.npy", member.getvalue())
    request = LoadRequest(
        source=str(tmp_path / "d.npz"), out=tmp_path / "out", inputs=(X,)
    )

    with pytest.raises(RejectedError, match="declares 12582912 bytes of samples; at"):
        load(request, most_bytes=1 << 20)

    assert not (tmp_path / "out" / "0.bin").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "object", "float8e4m3fn"])
def test_an_input_of_a_type_that_arrays_cannot_hold_is_refused(
    tmp_path: Path, dtype: str
) -> None:
    odd = Tensor(name="x", dtype=dtype, shape=(None, 3))

    with pytest.raises(RejectedError, match="which arrays cannot hold"):
        bring(tmp_path, Samples({"x": GOOD}), odd)


def test_a_disk_that_is_full_on_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0.bin").symlink_to("/dev/full")
    wide = Tensor(name="x", dtype="float32", shape=(None, 3, 4096))

    with pytest.raises(RejectedError) as refused:
        bring(tmp_path, Samples({"x": np.ones((9, 3, 4096), np.float32)}), wide)

    assert refused.value.code is Code.DISK_FULL
