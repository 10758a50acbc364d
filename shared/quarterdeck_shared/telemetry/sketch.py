"""A log-linear histogram that merges exactly in any order.

Each power of two is cut into ``2 ** bits`` equal buckets, so that a value read back
is off by at most ``1 / 2 ** (bits + 1)``: 1.6 % at 5 bits. The layout is that of
HDR histograms (Tene, hdrhistogram.org); the encoding is our own (PROTOCOL.md
section 8).
"""

from collections import Counter
from collections.abc import Mapping

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.telemetry.varint import Reader, write

BITS = 5
MAX_BUCKETS = 4096
_SPARSE, _DENSE = 0, 1


class Sketch:
    """Counts of non-negative integers, such as nanoseconds, by magnitude.

    Attributes:
        counts: How many values each bucket holds.
        bits: Each power of two is cut into ``2 ** bits`` buckets.
    """

    def __init__(
        self, counts: Mapping[int, int] | None = None, bits: int = BITS
    ) -> None:
        self.counts = Counter(dict(counts or {}))
        self.bits = bits

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sketch)
            and self.bits == other.bits
            and self.counts == other.counts
        )

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    @property
    def count(self) -> int:
        """How many values were added."""
        return self.counts.total()

    def add(self, value: int) -> None:
        """Count ``value``."""
        self.counts[_bucket(max(0, value), self.bits)] += 1

    def merged(self, other: "Sketch") -> "Sketch":
        """Return the sketch of both sets of values, at the coarser resolution."""
        bits = min(self.bits, other.bits)
        left, right = self.coarsened(bits), other.coarsened(bits)
        return Sketch(left.counts + right.counts, bits)

    def coarsened(self, bits: int) -> "Sketch":
        """Return the same values at a resolution of ``bits``, not finer than now."""
        if bits >= self.bits:
            return self
        counts: Counter[int] = Counter()
        for bucket, count in self.counts.items():
            counts[_bucket(_lowest(bucket, self.bits), bits)] += count
        return Sketch(counts, bits)

    def quantile(self, share: float) -> float | None:
        """Return the value below which ``share`` of all values lie, or None if empty.

        The middle of its bucket stands for the value.
        """
        rank = share * (self.count - 1)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen > rank:
                return _middle(bucket, self.bits)
        return None

    def encode(self, limit: int | None = None) -> bytes:
        """Return the sketch's bytes, coarsened until they fit into ``limit``."""
        data = self._encode()
        if limit is None or len(data) <= limit or self.bits == 0:
            return data
        return self.coarsened(self.bits - 1).encode(limit)

    def _encode(self) -> bytes:
        buckets = sorted(bucket for bucket, count in self.counts.items() if count)
        sparse, dense = bytearray(), bytearray()
        before = -1
        for bucket in buckets:
            gap, count = bucket - before - 1, self.counts[bucket]
            write(sparse, gap)
            write(sparse, count)
            if gap:
                dense.append(0)
                write(dense, gap)
            write(dense, count)
            before = bucket
        mode, body = min((_SPARSE, sparse), (_DENSE, dense), key=lambda m: len(m[1]))
        return bytes([self.bits << 1 | mode]) + body

    @classmethod
    def decode(cls, data: bytes) -> "Sketch":
        """Return the sketch that ``data`` holds.

        Raises:
            RejectedError: ``MALFORMED`` when it holds none.
        """
        reader = Reader(data)
        head = reader.take(1)[0]
        bits, mode = head >> 1, head & 1
        if bits > BITS:
            raise RejectedError(Code.MALFORMED, f"a sketch of {bits} bits")
        counts: dict[int, int] = {}
        at = -1
        while reader.left:
            value = reader.varint()
            if mode == _SPARSE:
                at, value = at + value + 1, reader.varint()
            elif value == 0:
                at += reader.varint()
                continue
            else:
                at += 1
            counts[at] = value
            if at >= MAX_BUCKETS or value == 0:
                raise RejectedError(Code.MALFORMED, f"bucket {at} holds {value}")
        return cls(counts, bits)


def _bucket(value: int, bits: int) -> int:
    shift = max(0, value.bit_length() - bits - 1)
    return (shift << bits) + (value >> shift)


def _span(bucket: int, bits: int) -> tuple[int, int]:
    shift = max(0, (bucket >> bits) - 1)
    return (bucket - (shift << bits)) << shift, 1 << shift


def _lowest(bucket: int, bits: int) -> int:
    return _span(bucket, bits)[0]


def _middle(bucket: int, bits: int) -> float:
    lowest, width = _span(bucket, bits)
    return lowest + (width - 1) / 2
