from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quarterdeck_controller.optimize.data import images
from quarterdeck_controller.optimize.data.images import Preprocess, make_tensor
from quarterdeck_controller.optimize.data.load import load
from quarterdeck_controller.optimize.data.stored import Array, Stored
from quarterdeck_controller.optimize.steps import Loaded, LoadRequest, Tensor
from quarterdeck_shared.errors import RejectedError

X = Tensor(name="x", dtype="float32", shape=(None, 3, 4, 6))
TOML = "size = [4, 6]\nscale = 0.5\nmean = [1, 2, 3]\nstd = [2, 2, 4]\n"
RED, GREEN = (200, 0, 0), (0, 100, 0)


def bring(folder: Path, toml: str = TOML, tensor: Tensor = X) -> Loaded:
    (folder / "preprocess.toml").write_text(toml, "utf-8")
    out = folder.parent / "out"
    return load(LoadRequest(source=str(folder), out=out, inputs=(tensor,)))


def paint(path: Path, colour: tuple[int, int, int] = RED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), colour).save(path)
    return path


def samples(folder: Path) -> Array:
    return Stored.open(folder.parent / "out").array("x")


def test_pixels_are_scaled_and_normalized_by_channel(tmp_path: Path) -> None:
    paint(tmp_path / "d" / "a.png", (200, 100, 51))

    bring(tmp_path / "d")

    x = samples(tmp_path / "d")
    assert x.shape == (1, 3, 4, 6)
    assert x[0, :, 0, 0].tolist() == [(100 - 1) / 2, (50 - 2) / 2, (25.5 - 3) / 4]


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.jpg", "cat/1.png", "ant/x.bmp"):
        paint(tmp_path / "d" / name)

    loaded = bring(tmp_path / "d")

    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [0, 1, 1, 2]
    assert "0 is ant, 1 is cat, 2 is dog" in loaded.notes[0]


def test_folders_that_are_called_by_numbers_are_these_classes(tmp_path: Path) -> None:
    for name in ("10/a.png", "2/a.png", "0/a.png"):
        paint(tmp_path / "d" / name)

    bring(tmp_path / "d")

    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [0, 2, 10]


def test_a_table_of_labels_goes_before_folders(tmp_path: Path) -> None:
    paint(tmp_path / "d" / "a" / "1.png")
    paint(tmp_path / "d" / "b" / "1.png")
    table = "file,label\na/1.png,5\nb/1.png,6\n"
    (tmp_path / "d" / "labels.csv").write_text(table, "utf-8")

    bring(tmp_path / "d")

    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [5, 6]


def test_a_picture_is_turned_upright_as_its_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 12), RED)
    picture.paste(GREEN, (0, 0, 8, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    (tmp_path / "d").mkdir()
    picture.save(tmp_path / "d" / "a.png", exif=exif)

    bring(tmp_path / "d", "size = [4, 6]")

    x = samples(tmp_path / "d")[0]
    assert x[:, 0, 0].tolist() == list(RED)
    assert x[:, 0, 5].tolist() == list(GREEN)


@pytest.mark.parametrize(
    ("declared", "shape", "corner"),
    [
        (Preprocess(size=(2, 2)), (3, 2, 2), [200, 100, 51]),
        (Preprocess(size=(2, 2), colour="bgr"), (3, 2, 2), [51, 100, 200]),
        (Preprocess(size=(2, 2), layout="nhwc"), (2, 2, 3), None),
        (Preprocess(size=(2, 2), colour="grey"), (1, 2, 2), [124]),
        (Preprocess(size=(2, 2), dtype="uint8"), (3, 2, 2), [200, 100, 51]),
        (Preprocess(size=(2, 2), dtype="int8"), (3, 2, 2), [72, -28, -77]),
    ],
)
def test_colour_layout_and_type_are_as_declared(
    declared: Preprocess, shape: tuple[int, ...], corner: list[int] | None
) -> None:
    made = make_tensor(Image.new("RGB", (8, 8), (200, 100, 51)), declared)

    assert made.shape == shape
    assert made.dtype == np.dtype(declared.dtype)
    if corner is not None:
        assert made[:, 0, 0].tolist() == corner


def test_crop_takes_the_middle_and_pad_keeps_all() -> None:
    picture = Image.new("RGB", (12, 4), RED)
    picture.paste(GREEN, (4, 0, 8, 4))

    crop = make_tensor(picture, Preprocess(size=(4, 4), resize="crop"))
    pad = make_tensor(
        picture, Preprocess(size=(12, 12), resize="pad", fill=7, filter="nearest")
    )

    assert (crop[1] == 100).all()
    assert (pad[:, :4] == 7).all()
    assert pad[0, 4, 0] == 200
    assert pad[1, 7, 4] == 100
    assert (pad[:, 8:] == 7).all()


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("size = [4]", "size"),
        ("size = [4, 6]\nsclae = 1", "sclae"),
        ("size = [0, 6]", "sides go from 1"),
        ("size = [4, 6]\nmean = [1, 2]", "mean has 2 values for 3 channels"),
        ("size = [4, 6]\nstd = [0]", "std holds 0"),
        ("size = [4, 6]\ndtype = 'uint8'\nscale = 0.5", "takes neither scale"),
        ("size = [4, 6]\nresize = 'squeeze'", "resize"),
        ("size = [4, ", "could not be read"),
        ("size = [5, 6]", r"\[1, 3, 5, 6\], the model takes \[N, 3, 4, 6\]"),
        ("size = [4, 6]\ndtype = 'uint8'", "x is uint8, the model takes float32"),
    ],
)
def test_a_preprocessing_that_is_not_as_it_must_be_is_refused(
    tmp_path: Path, toml: str, told: str
) -> None:
    paint(tmp_path / "d" / "a.png")

    with pytest.raises(RejectedError, match=told):
        bring(tmp_path / "d", toml)


def _broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _no_picture(path: Path) -> None:
    path.write_bytes(b"hello")


def _deep(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 60000, np.uint16)).save(path)


@pytest.mark.parametrize("spoil", [_broken, _no_picture, _deep])
def test_a_picture_that_cannot_be_taken_is_named(tmp_path: Path, spoil: object) -> None:
    paint(tmp_path / "d" / "good.png")
    assert callable(spoil)
    spoil(paint(tmp_path / "d" / "x.png"))

    with pytest.raises(RejectedError, match=r"x\.png"):
        bring(tmp_path / "d")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    size = (12_000, 10_000)
    Image.new("1", size).save(tmp_path / "d" / "huge.png")

    with pytest.raises(RejectedError, match="12000 x 10000 pixels"):
        bring(tmp_path / "d")

    assert size[0] * size[1] > images.MAX_PIXELS


def test_images_do_not_serve_a_model_of_several_inputs(tmp_path: Path) -> None:
    paint(tmp_path / "d" / "a.png")
    (tmp_path / "d" / "preprocess.toml").write_text(TOML, "utf-8")
    request = LoadRequest(
        source=str(tmp_path / "d"), out=tmp_path / "out", inputs=(X, X)
    )

    with pytest.raises(RejectedError, match="the model has the inputs x, x"):
        load(request)
