"""Samples from an ``.npz`` or ``.npy`` file, read as a stream.

An ``.npz`` has one array per model input, named like the input, samples first. An array
called ``labels``, optional, has one entry of any shape per sample, and one called
``groups`` says which samples belong together. An input that is itself called so is
written as ``input:labels``. An ``.npy`` holds the samples of a model with one input.

Nothing is unpickled, and nothing is believed: what a header declares is held against
what the file contains before anything is read.
"""

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from quarterdeck_controller.optimize.data.batch import (
    CHUNK_BYTES,
    Batch,
    Source,
    invalid,
)
from quarterdeck_controller.optimize.data.fit import (
    check_array,
    check_beside,
    check_counts,
    left_out,
    match_names,
)
from quarterdeck_controller.optimize.data.samples import GROUPS, LABELS, Array
from quarterdeck_controller.optimize.steps import Tensor

SUFFIX = ".npy"
MAX_SAMPLE_BYTES = 1 << 30
_ZIP = b"PK"
_NPY = b"\x93NUMPY"
_UNREADABLE = (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,  # a compression that is unknown here
    RuntimeError,  # an encrypted member
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One array as its header declares it.

    Attributes:
        file: Its name in the archive; empty when it is a file of its own.
        fortran: Whether its first dimension varies fastest.
    """

    file: str
    dtype: "np.dtype[np.generic]"
    shape: tuple[int, ...]
    fortran: bool

    @property
    def row_bytes(self) -> int:
        """Size of one sample."""
        return self.dtype.itemsize * prod(self.shape[1:])


def open_archive(path: Path, tensors: Sequence[Tensor], scratch: Path) -> Source:
    """Return the file at ``path``, checked as far as its headers tell.

    Raises:
        RejectedError: ``DATA_INVALID`` when it is no such file, is truncated, holds
            pickles, or does not fit the model.
    """
    where = str(path)
    with _understood(path):
        found = _read_headers(path)
    names = match_names(where, found, tensors)
    inputs = {tensor.name: found[names[tensor.name]] for tensor in tensors}
    for tensor in tensors:
        member = inputs[tensor.name]
        check_array(where, tensor, member.dtype.newbyteorder("="), member.shape)
    count = check_counts(where, {name: one.shape[0] for name, one in inputs.items()})
    for what in (LABELS, GROUPS):
        if what in found:
            check_beside(where, what, found[what].shape, count)
    archive = _Archive(
        path=path,
        inputs=inputs,
        labels=found.get(LABELS),
        groups=found.get(GROUPS),
        count=count,
        scratch=scratch,
    )
    size = count * sum(one.row_bytes for one in archive.members())
    return Source(where, count, size, archive.batches, left_out(names, found))


def read_arrays(path: Path) -> dict[str, Array]:
    """Return every array of an ``.npz`` or ``.npy`` that holds one sample.

    Raises:
        RejectedError: ``DATA_INVALID`` when it is no such file, or too large for one.
    """
    with _understood(path):
        members = _read_headers(path)
        size = sum(one.dtype.itemsize * prod(one.shape) for one in members.values())
        if size > MAX_SAMPLE_BYTES:
            raise ValueError(f"{size} bytes are too many for one sample")
        read = np.load(path, allow_pickle=False)
        if isinstance(read, np.ndarray):
            return {next(iter(members)): _native(read)}
        with read:
            return {name: _native(read[name]) for name in members}


@dataclass(frozen=True, slots=True)
class _Archive:
    """The members to read, all of ``count`` samples.

    Attributes:
        inputs: By the name of the model's input.
        scratch: A folder for what cannot be streamed.
    """

    path: Path
    inputs: Mapping[str, Member]
    labels: Member | None
    groups: Member | None
    count: int
    scratch: Path

    def batches(self, rows: Array | None) -> Iterator[Batch]:
        largest = max(member.row_bytes for member in self.members())
        step = max(1, CHUNK_BYTES // max(1, largest))
        with ExitStack() as stack, _understood(self.path):
            streams = self._open(stack)
            for start in range(0, self.count, step):
                stop = min(start + step, self.count)
                arrays = [stream.take(stop - start) for stream in streams]
                if rows is not None:
                    low, high = np.searchsorted(rows, [start, stop])
                    arrays = [array[rows[low:high] - start] for array in arrays]
                if len(arrays[0]):
                    yield self._batch(arrays)

    def members(self) -> list[Member]:
        beside = [one for one in (self.labels, self.groups) if one is not None]
        return [*self.inputs.values(), *beside]

    def _open(self, stack: ExitStack) -> list["_Stream"]:
        streams: list[_Stream] = []
        zipped = all(member.file for member in self.members())
        archive = stack.enter_context(zipfile.ZipFile(self.path)) if zipped else None
        for number, member in enumerate(self.members()):
            opened = archive.open(member.file) if archive else self.path.open("rb")
            file = stack.enter_context(opened)
            _read_header(member.file, file)
            if not member.fortran or len(member.shape) < len(("first", "second")):
                streams.append(_Straight(member, file))
                continue
            scratch = self.scratch / f"turned-{number}.tmp"
            stack.callback(scratch.unlink)
            streams.append(_Turned.make(member, file, scratch))
        return streams

    def _batch(self, arrays: Sequence[Array]) -> Batch:
        left = iter(arrays)
        inputs = {name: next(left) for name in self.inputs}
        labels = None if self.labels is None else next(left)
        return Batch(inputs, labels, None if self.groups is None else next(left))


class _Stream(Protocol):
    def take(self, count: int) -> Array: ...


@dataclass(frozen=True, slots=True)
class _Straight:
    """Samples one after the other."""

    member: Member
    file: IO[bytes]

    def take(self, count: int) -> Array:
        wanted = count * self.member.row_bytes
        data = self.file.read(wanted)
        if len(data) < wanted:
            raise ValueError(f"{self.member.file or 'it'} is truncated")
        flat = np.frombuffer(data, self.member.dtype)
        return _native(flat.reshape(count, *self.member.shape[1:]))


@dataclass(slots=True)
class _Turned:
    """Samples interleaved: mapped from a copy that is not compressed."""

    data: Array
    at: int = 0

    @classmethod
    def make(cls, member: Member, file: IO[bytes], scratch: Path) -> "_Turned":
        wanted = member.row_bytes * member.shape[0]
        with scratch.open("wb") as copy:
            while wanted > 0 and (part := file.read(min(wanted, CHUNK_BYTES))):
                copy.write(part)
                wanted -= len(part)
        if wanted:
            raise ValueError(f"{member.file or 'it'} is truncated")
        return cls(np.memmap(scratch, member.dtype, "r", 0, member.shape, "F"))

    def take(self, count: int) -> Array:
        self.at += count
        return _native(np.ascontiguousarray(self.data[self.at - count : self.at]))


def _native(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_headers(path: Path) -> dict[str, Member]:
    with path.open("rb") as file:
        start = file.read(len(_NPY))
        file.seek(0)
        if start.startswith(_NPY):
            return {"samples": _declared("", file, path.stat().st_size)}
        if not start.startswith(_ZIP):
            if path.suffix == ".py":
                raise invalid(f"{path} is Python: name a function of it, {path}:NAME")
            raise invalid(
                f"{path} is no .npz file, such as numpy.savez writes, one array "
                "per model input"
            )
        members: dict[str, Member] = {}
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(SUFFIX)
                if name in members or not info.filename.endswith(SUFFIX):
                    raise ValueError(f"{info.filename} is no array, or is there twice")
                with archive.open(info) as stream:
                    members[name] = _declared(info.filename, stream, info.file_size)
        return members


def _declared(name: str, file: IO[bytes], size: int) -> Member:
    """Return what the header declares, if so much is there."""
    shape, fortran, dtype = _read_header(name, file)
    declared = dtype.itemsize * prod(shape)
    if declared > size:
        raise ValueError(
            f"{name or 'it'} is truncated: its header declares {declared} bytes of "
            f"numbers, the file has {size}"
        )
    return Member(name, dtype, shape, fortran)


def _read_header(
    name: str, file: IO[bytes]
) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"{name or 'it'} is a structured array")
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(
            f"{name or 'it'} holds Python objects, which are not unpickled"
        )
    if dtype.names is not None or dtype.kind not in "biufSU":
        raise ValueError(f"{name or 'it'} holds {dtype}, neither numbers nor text")
    return shape, fortran, dtype


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Turn whatever reading a file raises into a refusal that names the file."""
    try:
        yield
    except OSError as error:
        why = error.strerror or "it is no .npz file"
        raise invalid(f"{path} could not be read: {why}") from error
    except _UNREADABLE as error:
        raise invalid(f"{path} is no .npz file of plain arrays: {error}") from error
