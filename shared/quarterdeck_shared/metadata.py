"""Fetching signed metadata and indexes over the bus (PROTOCOL.md section 5)."""

import struct
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.wire import Wire

REPLY_VERSION = 1
PIECE_BYTES = 64 * 1024
_HEADER = struct.Struct("!BBxxIQ")

FOUND, NOT_FOUND = 1, 2


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a name may hold printable characters only")
    return name


class MetadataRequest(Wire):
    """A device asks for one file of the repository.

    Attributes:
        name: Any name that can be shown in a log: whoever answers resolves it by a
            pattern of its own, never as a path. TUF asks for roles by any name.
    """

    v: Literal[1] = 1
    id: int = Field(ge=0, lt=1 << 63)
    name: Annotated[
        str, Field(min_length=1, max_length=255), AfterValidator(_printable)
    ]


@dataclass(frozen=True, slots=True)
class MetadataReply:
    """One piece of the file asked for; the last piece says so.

    Attributes:
        id: The request's id.
        found: False says there is no such file; then there is no data.
        piece: Pieces count from 0.
        last: No further piece follows.
    """

    id: int
    found: bool
    piece: int
    last: bool
    data: bytes

    def encode(self) -> bytes:
        """Return the reply's bytes."""
        status = (FOUND if self.found else NOT_FOUND) | (0x80 if self.last else 0)
        return _HEADER.pack(REPLY_VERSION, status, self.piece, self.id) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> "MetadataReply":
        """Return the reply that ``payload`` holds.

        Raises:
            RejectedError: ``TOO_LARGE``, ``MALFORMED`` or ``VERSION_UNKNOWN``.
        """
        if len(payload) > _HEADER.size + PIECE_BYTES:
            raise RejectedError(Code.TOO_LARGE, f"reply of {len(payload)} bytes")
        if len(payload) < _HEADER.size:
            raise RejectedError(Code.MALFORMED, f"reply of {len(payload)} bytes")
        version, status, piece, request = _HEADER.unpack_from(payload)
        if version != REPLY_VERSION:
            raise RejectedError(Code.VERSION_UNKNOWN, f"reply version {version}")
        if status & 0x7F not in (FOUND, NOT_FOUND):
            raise RejectedError(Code.MALFORMED, f"reply status {status}")
        found = status & 0x7F == FOUND
        return cls(request, found, piece, bool(status & 0x80), payload[_HEADER.size :])
