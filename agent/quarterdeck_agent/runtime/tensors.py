"""Arrays out of ``.npy`` and ``.npz`` bytes that anybody may have made.

What a file says of itself is bounded before any work is done for it: how long its
directory and headers are, how many arrays it holds, of which types, and that each has
as many bytes as its shape asks for and all together no more than the limit.
"""

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from typing import IO

import numpy as np
from numpy.typing import NDArray

from quarterdeck_agent.runtime.frames import MAX_BODY_BYTES
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Tensor = NDArray[np.generic]
Tensors = Mapping[str, Tensor]

MAX_ARRAYS = 65
MAX_HEADER_BYTES = 4096
MAX_DIRECTORY_BYTES = 64 * 1024
"""Of an archive, which names each array once."""

_KINDS = frozenset("biufcSU")
"""Booleans, numbers and texts: neither records nor objects."""

_PACKED = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_END, _END_BYTES = b"PK\x05\x06", 22
_WIDE_END, _WIDE_END_BYTES = b"PK\x06\x07", 20
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged file raises: it is parsed as Python, zip and deflate."""


def read_tensors(payload: bytes, *, limit: int = MAX_BODY_BYTES) -> Tensors:
    """Return the arrays of a ``.npy`` (under the name "") or ``.npz`` file's bytes.

    Args:
        payload: The file.
        limit: Most bytes that its arrays may have together; by default no more than
            could have come unpacked.

    Raises:
        RejectedError: ``REQUEST_INVALID``.
    """
    try:
        if payload.startswith(b"PK"):
            return _archived(payload, limit)
        return {"": _array(io.BytesIO(payload), len(payload))}
    except _UNREADABLE as error:
        why = f"not a .npy or .npz file: {str(error)[:200]}"
        raise RejectedError(Code.REQUEST_INVALID, why) from error


def _archived(payload: bytes, limit: int) -> Tensors:
    _check_directory(payload)
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        entries = archive.infolist()
        names = {it.filename for it in entries}
        if len(entries) > MAX_ARRAYS or len(names) < len(entries):
            raise ValueError(f"{len(entries)} arrays in it, {MAX_ARRAYS} are allowed")
        unpacked = sum(it.file_size for it in entries)
        if unpacked > limit:
            raise ValueError(f"it unpacks to {unpacked} bytes, {limit} are allowed")
        if not _PACKED.issuperset(it.compress_type for it in entries):
            raise ValueError("it is packed by another method than deflate")
        tensors = {}
        for entry in entries:
            with archive.open(entry) as file:
                name = entry.filename.removesuffix(".npy")
                tensors[name] = _array(file, entry.file_size)
        return tensors


def _check_directory(payload: bytes) -> None:
    """Refuse an archive whose list of files is long, before it is read."""
    end = payload[-_END_BYTES:]
    if len(end) < _END_BYTES or not end.startswith(_END) or end[-2:] != b"\0\0":
        raise ValueError("the archive does not end with its directory")
    before = payload[-_END_BYTES - _WIDE_END_BYTES : -_END_BYTES]
    (size,) = struct.unpack_from("<I", end, 12)
    if before.startswith(_WIDE_END) or size > MAX_DIRECTORY_BYTES:
        raise ValueError(
            f"its directory has {size} bytes, {MAX_DIRECTORY_BYTES} are allowed"
        )


def _array(file: IO[bytes], size: int) -> Tensor:
    """Return the array in ``file``, which has ``size`` bytes."""
    shape, dtype = _header(file)
    if dtype.kind not in _KINDS or not dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype!s:.80}")
    wanted, held = prod(shape) * dtype.itemsize, size - file.tell()
    if wanted > held:
        raise ValueError(f"an array of {wanted} bytes, of which {held} are there")
    file.seek(0)
    read: Tensor = np.lib.format.read_array(
        file, allow_pickle=False, max_header_size=MAX_HEADER_BYTES
    )
    return read


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    major, _ = np.lib.format.read_magic(file)
    form = "<H" if major == 1 else "<I"
    start = file.tell()
    (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes, {MAX_HEADER_BYTES} are allowed")
    file.seek(start)
    read = (
        np.lib.format.read_array_header_1_0
        if major == 1
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file, max_header_size=MAX_HEADER_BYTES)
    return shape, dtype
