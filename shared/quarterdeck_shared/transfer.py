"""Chunk frames and the need message (PROTOCOL.md section 7)."""

import struct
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import Sha256
from quarterdeck_shared.wire import Wire

FRAME_VERSION = 1
_HEADER = struct.Struct("!BxxxIQ")
MAX_FRAME_BYTES = _HEADER.size + (1 << 20)


@dataclass(frozen=True, slots=True)
class ChunkFrame:
    """One chunk on the broadcast topic of its artifact.

    Attributes:
        number: The chunk's place in the index.
        published: Rises by one with every frame published for this artifact by one
            controller, repeats included, so that a receiver can tell what it missed.
        data: The chunk's bytes, not yet verified.
    """

    number: int
    published: int
    data: bytes

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _HEADER.pack(FRAME_VERSION, self.number, self.published) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> "ChunkFrame":
        """Return the frame that ``payload`` holds.

        Raises:
            RejectedError: ``TOO_LARGE``, ``MALFORMED`` or ``VERSION_UNKNOWN``.
        """
        if len(payload) > MAX_FRAME_BYTES:
            raise RejectedError(Code.TOO_LARGE, f"chunk frame of {len(payload)} bytes")
        if len(payload) <= _HEADER.size:
            raise RejectedError(Code.MALFORMED, f"chunk frame of {len(payload)} bytes")
        version, number, published = _HEADER.unpack_from(payload)
        if version != FRAME_VERSION:
            raise RejectedError(Code.VERSION_UNKNOWN, f"chunk frame version {version}")
        return cls(number, published, payload[_HEADER.size :])


class Need(Wire):
    """What a device still lacks of an artifact, and how much it can take now.

    Attributes:
        missing: Bitmap of missing chunks; chunk n is bit ``n % 8`` of byte
            ``n // 8``. All zero, or empty, says "I have all of it".
        seen: ``published`` of the newest frame received for this artifact; 0 before
            the first. Whatever was published up to it and is still missing was lost.
        stream: The stream that ``seen`` counts in: drawn by the controller at its
            start and told in its state's boot; 0 when unknown.
        credit: Frames the device is ready to take beyond ``seen``.
    """

    v: Literal[1] = 1
    artifact: Sha256
    missing: bytes = Field(max_length=24 * 1024)
    seen: int = Field(ge=0, lt=1 << 53)
    stream: int = Field(default=0, ge=0, lt=1 << 53)
    credit: int = Field(ge=0, le=4096)


def to_bitmap(numbers: set[int], count: int) -> bytes:
    """Return the bitmap of ``numbers`` among ``count`` chunks."""
    bits = bytearray(-(-count // 8))
    for number in numbers:
        bits[number // 8] |= 1 << number % 8
    return bytes(bits)


def from_bitmap(bits: bytes, count: int) -> set[int]:
    """Return the numbers below ``count`` whose bit is set."""
    return {n for n in range(min(count, len(bits) * 8)) if bits[n // 8] >> n % 8 & 1}
