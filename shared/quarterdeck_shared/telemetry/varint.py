"""Unsigned integers in as few bytes as they need (LEB128)."""

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_BITS = 64
_CONTINUED = 0x80


def write(out: bytearray, value: int) -> None:
    """Append ``value``, which is not negative, to ``out``."""
    while value >= _CONTINUED:
        out.append(value & 0x7F | _CONTINUED)
        value >>= 7
    out.append(value)


class Reader:
    """Reads a record from front to back and never past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            RejectedError: ``MALFORMED`` when there are fewer.
        """
        if count > self.left:
            raise RejectedError(
                Code.MALFORMED, f"record ends early: {count} wanted, {self.left} left"
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        """Return the next integer.

        Raises:
            RejectedError: ``MALFORMED`` at the record's end or past 64 bits.
        """
        # Nearly all are of one byte, and a controller reads a hundred a window.
        if self._at < len(self._data):
            byte = self._data[self._at]
            if byte < _CONTINUED:
                self._at += 1
                return byte
        return self._of_several_bytes()

    def _of_several_bytes(self) -> int:
        value = 0
        for shift in range(0, MAX_BITS + 6, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < _CONTINUED:
                if value >> MAX_BITS:
                    break
                return value
        raise RejectedError(Code.MALFORMED, "an integer of more than 64 bits")
