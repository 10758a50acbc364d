"""One telemetry window: what a model did on one device for a short while.

A window is a delta, never a running total. It is idempotent by (device, boot,
sequence): storing it twice changes nothing. Two windows of the same boot and
artifact merge into one that says how many it spans, so a long time offline costs
little and no count is lost. The bytes are those of PROTOCOL.md section 8.
"""

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.varint import Reader, write
from quarterdeck_shared.wire import Wire

WINDOW_VERSION = 1
MAX_WINDOW_BYTES = 500
MAX_LATENCY_BYTES = 260
CONFIDENCE_BINS = 16
TOP_CLASSES = 24
OTHER = -1
"""The class under which all classes past the most frequent ones are counted."""

COUNTERS = (
    "span",
    "requests",
    "errors",
    "dropped",
    "golden_total",
    "golden_ok",
    "label_total",
    "label_ok",
    "rss_mb",
    "restarts",
)
"""The plain counts of a window, in the order in which they are written."""

_HEAD = struct.Struct("!BQI8sI")
_COUNT_MAX = (1 << 40) - 1


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted between ``started`` and ``started + duration``.

    Attributes:
        boot: The agent's boot, as in its session state.
        sequence: Number of the newest window in it, from 1.
        span: How many windows were merged into it.
        artifact: First 16 hex digits of the artifact's digest.
        requests: Inferences asked for; ``errors`` of them failed.
        dropped: Requests that were turned away for want of room.
        latency: Nanoseconds of each answered inference.
        confidence: Counts of the top score in 16 equal bins from 0 to 1.
        classes: Counts by predicted class; ``OTHER`` holds the rest.
        golden_total: Golden vectors replayed; ``golden_ok`` reproduced.
        label_total: Inferences whose true label is known; ``label_ok`` right.
        rss_mb: Highest resident memory of the worker seen, MiB.
        restarts: Times the worker had to be started again.
    """

    boot: int
    sequence: int
    artifact: str
    started: datetime
    duration: timedelta
    span: int = 1
    requests: int = 0
    errors: int = 0
    dropped: int = 0
    latency: Sketch = field(default_factory=Sketch)
    confidence: tuple[int, ...] = (0,) * CONFIDENCE_BINS
    classes: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    golden_total: int = 0
    golden_ok: int = 0
    label_total: int = 0
    label_ok: int = 0
    rss_mb: int = 0
    restarts: int = 0

    def encode(self) -> bytes:
        """Return the window's bytes, 500 at most.

        Only resolution is given up to fit: rare classes go to ``OTHER`` and the
        latency sketch is coarsened. Counts are never lost.
        """
        out = bytearray(
            _HEAD.pack(
                WINDOW_VERSION,
                self.boot,
                self.sequence,
                bytes.fromhex(self.artifact),
                int(self.started.timestamp()),
            )
        )
        write(out, round(self.duration.total_seconds() * 1000))
        for value in self.counters():
            write(out, min(value, _COUNT_MAX))
        latency = self.latency.encode(MAX_LATENCY_BYTES)
        write(out, len(latency))
        out += latency
        for value in self.confidence:
            write(out, min(value, _COUNT_MAX))
        _write_classes(out, self.classes)
        return bytes(out)

    def counters(self) -> tuple[int, ...]:
        """Return the plain counts in the order of ``COUNTERS``."""
        return tuple(getattr(self, name) for name in COUNTERS)

    @classmethod
    def decode(cls, data: bytes) -> "Window":
        """Return the window that ``data`` holds.

        Raises:
            RejectedError: ``TOO_LARGE``, ``MALFORMED`` or ``VERSION_UNKNOWN``.
        """
        if len(data) > MAX_WINDOW_BYTES:
            raise RejectedError(Code.TOO_LARGE, f"a window of {len(data)} bytes")
        reader = Reader(data)
        version, boot, sequence, prefix, started = _HEAD.unpack(reader.take(_HEAD.size))
        if version != WINDOW_VERSION:
            raise RejectedError(Code.VERSION_UNKNOWN, f"window version {version}")
        duration = timedelta(milliseconds=min(reader.varint(), 1 << 40))
        counters = [reader.varint() for _ in COUNTERS]
        latency = Sketch.decode(reader.take(reader.varint()))
        confidence = tuple(reader.varint() for _ in range(CONFIDENCE_BINS))
        classes = _read_classes(reader)
        if reader.left:
            raise RejectedError(Code.MALFORMED, f"{reader.left} bytes past the window")
        window = cls(
            boot=boot,
            sequence=sequence,
            artifact=prefix.hex(),
            started=datetime.fromtimestamp(started, UTC),
            duration=duration,
            latency=latency,
            confidence=confidence,
            classes=classes,
            **dict(zip(COUNTERS, counters, strict=True)),
        )
        _check(window)
        return window


class Ack(Wire):
    """The controller has stored these windows; the device may forget them.

    Attributes:
        sequences: Sequence numbers of the stored windows of that boot.
    """

    v: Literal[1] = 1
    boot: int = Field(ge=0, lt=1 << 53)
    sequences: tuple[int, ...] = Field(max_length=1024)


def merge(older: Window, newer: Window) -> Window:
    """Return one window for two of the same boot and artifact.

    Raises:
        ValueError: They are not of the same boot and artifact; this is a bug.
    """
    if (older.boot, older.artifact) != (newer.boot, newer.artifact):
        raise ValueError("windows of different boots or artifacts do not merge")
    pairs = zip(older.confidence, newer.confidence, strict=True)
    return replace(
        newer,
        started=min(older.started, newer.started),
        duration=older.duration + newer.duration,
        span=older.span + newer.span,
        requests=older.requests + newer.requests,
        errors=older.errors + newer.errors,
        dropped=older.dropped + newer.dropped,
        latency=older.latency.merged(newer.latency),
        confidence=tuple(a + b for a, b in pairs),
        classes=MappingProxyType(dict(Counter(older.classes) + Counter(newer.classes))),
        golden_total=older.golden_total + newer.golden_total,
        golden_ok=older.golden_ok + newer.golden_ok,
        label_total=older.label_total + newer.label_total,
        label_ok=older.label_ok + newer.label_ok,
        rss_mb=max(older.rss_mb, newer.rss_mb),
        restarts=older.restarts + newer.restarts,
    )


def _write_classes(out: bytearray, classes: Mapping[int, int]) -> None:
    named = sorted(
        (
            (count, index)
            for index, count in classes.items()
            if index != OTHER and count
        ),
        reverse=True,
    )
    top = sorted((index, count) for count, index in named[:TOP_CLASSES])
    rest = classes.get(OTHER, 0) + sum(count for count, _ in named[TOP_CLASSES:])
    write(out, rest)
    write(out, len(top))
    for index, count in top:
        write(out, index)
        write(out, count)


def _read_classes(reader: Reader) -> Mapping[int, int]:
    rest, count = reader.varint(), reader.varint()
    if count > TOP_CLASSES:
        raise RejectedError(Code.MALFORMED, f"{count} classes in one window")
    classes = {reader.varint(): reader.varint() for _ in range(count)}
    if rest:
        classes[OTHER] = rest
    return MappingProxyType(classes)


def _check(window: Window) -> None:
    sound = (
        window.span >= 1
        and window.errors <= window.requests
        and window.golden_ok <= window.golden_total
        and window.label_ok <= window.label_total
        and window.latency.count <= window.requests
        and max(window.counters()) <= _COUNT_MAX
        and window.boot < 1 << 53
    )
    if not sound:
        raise RejectedError(
            Code.MALFORMED, "a window whose counts contradict each other"
        )
