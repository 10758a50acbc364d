"""Samples from a folder of images, made into tensors as ``preprocess.toml`` declares.

The file is in the folder and says what the device does to a picture too:

    size = [224, 224]          # height, width
    resize = "stretch"         # "crop": fill, cut the middle out; "pad": fit, fill up
    filter = "bilinear"        # "nearest", "box", "bicubic", "lanczos"
    colour = "rgb"             # "bgr", "grey"
    layout = "nchw"            # "nhwc"
    dtype = "float32"          # "float16", "float64", "uint8", "int8"
    scale = 0.00392156862745   # (value * scale - mean) / std, mean and std by channel
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    fill = 0                   # what "pad" fills with, before scaling

Pictures are turned upright as their EXIF data says, transparency is dropped, and they
are resized by Pillow, whose filters widen when they shrink a picture (antialiasing): in
8 bits per channel, before anything else. Sums are made in float64 and rounded once.
Integer types take the bytes as they are, ``int8`` less 128, and neither scale, mean nor
std. Grey is 0.299 red, 0.587 green, 0.114 blue.

Labels are in ``labels.csv``, or the names of the folders that the pictures are in
(``data.table``).
"""

import tomllib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quarterdeck_controller.optimize.data import table
from quarterdeck_controller.optimize.data.batch import Batch, Source, invalid
from quarterdeck_controller.optimize.data.fit import check_array
from quarterdeck_controller.optimize.data.folder import by_name
from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_controller.optimize.steps import Tensor

FILE = "preprocess.toml"
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_PIXELS = 100_000_000
MAX_SIDE = 16384
_DEEP = ("I", "F")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocess(BaseModel):
    """``preprocess.toml``; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int]
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "float64", "uint8", "int8"] = "float32"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fill: int = Field(default=0, ge=0, le=255)

    @property
    def channels(self) -> int:
        """How many there are."""
        return 1 if self.colour == "grey" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one sample."""
        if self.layout == "nchw":
            return self.channels, *self.size
        return *self.size, self.channels

    @model_validator(mode="after")
    def _check(self) -> "Preprocess":
        if not all(1 <= side <= MAX_SIDE for side in self.size):
            raise ValueError(
                f"size is {list(self.size)}, sides go from 1 to {MAX_SIDE}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise ValueError(
                    f"{name} has {len(values)} values for {self.channels} channels"
                )
        if 0 in self.std:
            raise ValueError("std holds 0")
        plain = self.scale == 1 and not any(self.mean) and set(self.std) == {1}
        if self.dtype in {"uint8", "int8"} and not plain:
            raise ValueError(f"{self.dtype} takes neither scale, mean nor std")
        return self


def open_images(folder: Path, tensors: Sequence[Tensor]) -> Source:
    """Return the images in ``folder`` as samples.

    Raises:
        RejectedError: ``DATA_INVALID`` when there are none, when ``preprocess.toml`` or
            the labels are not as they must be, or the model takes something else.
    """
    declared = read_preprocess(folder / FILE)
    if len(tensors) != 1:
        names = ", ".join(tensor.name for tensor in tensors)
        raise invalid(f"{folder} holds images, but the model has the inputs {names}")
    tensor = tensors[0]
    files = image_files(folder)
    shape, dtype = (len(files), *declared.shape), np.dtype(declared.dtype)
    check_array(str(folder / FILE), tensor, dtype, shape)
    listed = (folder / table.FILE).exists()
    read = table.read_table if listed else table.label_by_folder
    beside = read(folder, files)

    def batches(rows: Array | None) -> Iterator[Batch]:
        for row in (np.arange(len(files)) if rows is None else rows).tolist():
            sample = make_tensor(read_image(files[row]), declared)
            yield Batch({tensor.name: sample[None]}, *beside.at(np.array([row])))

    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return Source(str(folder), len(files), size, batches, beside.notes)


def read_preprocess(path: Path) -> Preprocess:
    """Return what the file at ``path`` declares.

    Raises:
        RejectedError: ``DATA_INVALID`` with what is wrong in it.
    """
    try:
        return Preprocess.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (
        OSError,
        UnicodeDecodeError,
        tomllib.TOMLDecodeError,
        RecursionError,
    ) as error:
        raise invalid(f"{path} could not be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise invalid(f"{path}: {where}: {first['msg']}") from error


def image_files(folder: Path) -> list[Path]:
    """Return the images in ``folder`` and the folders in it, by name.

    Raises:
        RejectedError: ``DATA_INVALID`` when there are none.
    """
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise invalid(f"{folder} has a {FILE} but holds no images")
    return sorted(found, key=by_name)


def read_image(path: Path) -> Image.Image:
    """Return the image at ``path``, upright, 8 bits a channel.

    Raises:
        RejectedError: ``DATA_INVALID`` when it is broken, huge, or of more bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise invalid(
                        f"{path} has {image.width} x {image.height} pixels, more than "
                        f"{MAX_PIXELS}"
                    )
                if image.mode.startswith(_DEEP):
                    raise invalid(
                        f"{path} has more than 8 bits a channel ({image.mode}); bring "
                        ".npy files instead"
                    )
                return ImageOps.exif_transpose(image).convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,  # what Pillow raises for some broken PNGs
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        raise invalid(f"{path} is no image that can be read: {error}") from error


def make_tensor(image: Image.Image, declared: Preprocess) -> Array:
    """Return the sample that ``image`` becomes."""
    placed = _place(image, declared)
    if declared.colour == "grey":
        pixels = np.asarray(placed.convert("L"))[..., None]
    else:
        pixels = np.asarray(placed)
    if declared.colour == "bgr":
        pixels = pixels[..., ::-1]
    if declared.dtype == "uint8":
        values: Array = pixels
    elif declared.dtype == "int8":
        values = (pixels.astype(np.int16) - 128).astype(np.int8)
    else:
        scaled = pixels * np.float64(declared.scale) - np.array(declared.mean)
        values = (scaled / np.array(declared.std)).astype(declared.dtype)
    if declared.layout == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values)


def _place(image: Image.Image, declared: Preprocess) -> Image.Image:
    height, width = declared.size
    resample = _FILTERS[declared.filter]
    if declared.resize == "stretch":
        return image.resize((width, height), resample)
    if declared.resize == "crop":
        return ImageOps.fit(image, (width, height), resample, centering=(0.5, 0.5))
    factor = min(width / image.width, height / image.height)
    inner = (
        max(1, round(image.width * factor)),
        max(1, round(image.height * factor)),
    )
    placed = Image.new("RGB", (width, height), (declared.fill,) * 3)
    at = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    placed.paste(image.resize(inner, resample), at)
    return placed
