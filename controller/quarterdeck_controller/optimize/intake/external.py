"""Weights that are kept in files beside the model: found, checked, digested.

A model names its data files itself, so the names are someone else's words: only plain
files in the model's own folder or under it are read.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import ModelProto, TensorProto

from quarterdeck_controller.optimize.intake.graph import size_of, tensors
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's values are; ``length`` bytes from ``offset``."""

    location: str
    offset: int
    length: int


def is_external(tensor: TensorProto) -> bool:
    """Return whether the tensor's values are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def place_of(tensor: TensorProto) -> Place:
    """Return where an external tensor's values are.

    Raises:
        RejectedError: ``MODEL_INVALID`` when what the model says makes no sense.
    """
    told = {entry.key: entry.value for entry in tensor.external_data}
    size = size_of(tensor)
    try:
        offset, length = int(told.get("offset", 0)), int(told.get("length", size))
    except ValueError as error:
        raise _invalid(
            f"tensor {tensor.name} gives no number for its place in the data file"
        ) from error
    if offset < 0 or length != size:
        raise _invalid(
            f"tensor {tensor.name} takes {size} bytes, but names {length} bytes at "
            f"{offset} of its data file"
        )
    return Place(told.get("location", ""), offset, length)


def check_external(model: ModelProto, folder: Path) -> tuple[str, ...]:
    """Return the data files that the model names, sorted, all of them sound.

    Raises:
        RejectedError: ``MODEL_INVALID`` when one is missing, too short, or not within
            ``folder``.
    """
    ends: dict[str, int] = {}
    for tensor in tensors(model):
        if is_external(tensor):
            place = place_of(tensor)
            end = place.offset + place.length
            ends[place.location] = max(ends.get(place.location, 0), end)
    for location, end in ends.items():
        _check_file(folder, location, end)
    return tuple(sorted(ends))


def digest(model: Path, files: tuple[str, ...]) -> tuple[str, int]:
    """Return the sha256 and the size of the model with its data files.

    Of a model without any it is the file's own; else names and sizes of the data files
    count too.
    """
    state, size = hashlib.sha256(), 0
    for name in ("", *files):
        path = model.parent / name if name else model
        length = path.stat().st_size
        if name:
            state.update(f"\n{name} {length}\n".encode())
        for part in _chunks(path):
            state.update(part)
        size += length
    return state.hexdigest(), size


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            yield part


def _check_file(folder: Path, location: str, end: int) -> None:
    if not location or not _is_inside(folder, location):
        raise _invalid(
            f"its weights are in {location or 'a file without a name'!r}, which is not "
            "in the model's own folder; put the file beside the model and save it "
            "again with a plain name"
        )
    path = folder / location
    if not path.is_file():
        raise _invalid(
            f"its weights are in {location}, which is missing; put the file beside the "
            "model"
        )
    size = path.stat().st_size
    if size < end:
        raise _invalid(
            f"its weights need {end} bytes of {location}, which has {size}: the file "
            "is cut short, or is another model's"
        )


def _is_inside(folder: Path, location: str) -> bool:
    if "\0" in location or PureWindowsPath(location).drive:
        return False
    parts = PurePosixPath(location.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        return False
    return (folder / location).resolve().is_relative_to(folder.resolve())


def _invalid(detail: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, detail)
