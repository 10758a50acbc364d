"""Which chunk of an artifact to publish next (PROTOCOL.md section 7). Pure.

Chunks go round in order of their numbers, whoever joined when, and only those that
somebody misses. What was published after the newest frame that a device has seen is
on its way to it: it is not sent again, and counts against the device's credit, until
the device has stood still for ``LOSS_S``, which says that it was lost.

A device without credit holds the broadcast up, for ``LAGGARD_S`` at most; then it is
left behind, and repaired when it has caught up. Nothing here reads a clock: ``now``
is the caller's, in seconds that only grow.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

COALESCE_S = 0.1
"""How long the first device of a wave waits for the others to join."""

LOSS_S = 1.0
"""A device that reports no progress for this long has lost what was on its way, until
it shows that it was only slow: then it is given twice the time."""

LONGEST_LOSS_S = 60.0
"""A frame that takes longer than this does not come."""

LAGGARD_S = 2.0
"""A device without credit holds the others up for this long at most."""

SILENT_S = 15.0
"""A device that did not report for this long is gone; it asks again at least each 4 s
while it is there."""

ABSENT_S = 60.0
"""A chunk that was not there is looked for again after this long: whoever restores a
part need not restart anything, and nobody has the disk searched without end."""

_REMEMBERED = 4096
"""Frames whose numbers are kept: the largest credit there is."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a device reported.

    Attributes:
        missing: The missing chunks as the bits of a number.
        seen: Newest frame of ``stream`` that it received; 0 before the first.
        stream: Whose count ``seen`` is.
        credit: Frames it can take beyond ``seen``.
    """

    missing: int
    seen: int
    stream: int
    credit: int


class Why(Enum):
    """Why a plan is as it is."""

    SENDING = "somebody misses these chunks and all who keep up have credit"
    NOTHING_MISSED = "everything that anybody misses is on its way"
    COALESCING = "the first device waits for others to join"
    HELD = "a device that keeps up has no credit left"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to publish now, and why that.

    Attributes:
        wait_s: When the plan may differ without any new report; None for never.
    """

    numbers: tuple[int, ...]
    why: Why
    wait_s: float | None = None


@dataclass(slots=True)
class _Listener:
    """One device, as far as it reported.

    Attributes:
        reported: The newest frame that it said it has seen.
        base: Frames up to this one are not on their way, whether seen or not.
        awaiting: Chunks on their way, as bits.
        patience_s: How long it may stand still before that means a loss.
        advanced_at: When its position last rose.
        full_since: When its credit was used up; None while there is some.
    """

    missing: int
    credit: int
    reported: int
    base: int
    advanced_at: float
    heard_at: float
    awaiting: int = 0
    patience_s: float = LOSS_S
    full_since: float | None = None

    @property
    def position(self) -> int:
        """The newest frame that is not on its way any more."""
        return max(self.reported, self.base)

    def lags(self, now: float) -> bool:
        """Return whether it has been without credit for too long."""
        return self.full_since is not None and now - self.full_since > LAGGARD_S


@dataclass(slots=True)
class Carousel:
    """The broadcast of one artifact.

    Attributes:
        stream: Tells this count of frames from that of an earlier controller.
        published: Number of the newest frame.
    """

    stream: int
    published: int = 0
    _cursor: int = 0
    _absent: int = 0
    _absent_until: float = 0.0
    _ready_at: float = 0.0
    _recent: deque[tuple[int, float]] = field(
        default_factory=lambda: deque(maxlen=_REMEMBERED)
    )
    _listeners: dict[str, _Listener] = field(default_factory=dict)

    @property
    def listeners(self) -> int:
        """How many devices are listened to."""
        return len(self._listeners)

    def hear(self, device: str, want: Want, now: float) -> None:
        """Take in a device's report; one that misses nothing is done."""
        if now >= self._absent_until:
            self._absent = 0
        missing = want.missing & ~self._absent
        if not missing:
            self._listeners.pop(device, None)
            return
        if not self._listeners:
            self._ready_at = now + COALESCE_S
        seen = min(want.seen, self.published) if want.stream == self.stream else 0
        known = self._listeners.get(device)
        if known is None or seen == 0 < known.reported:
            known = _Listener(missing, want.credit, seen, self.published, now, now)
            self._listeners[device] = known
        elif seen < known.reported:
            return  # an older report, delivered twice
        self._update(known, seen, now)
        known.missing, known.credit, known.heard_at = missing, want.credit, now
        known.awaiting = self._on_their_way(known.position)
        self._count_credit(known, now)

    def plan(self, now: float, limit: int) -> Plan:
        """Return up to ``limit`` chunks to publish now."""
        self._drop_silent(now)
        if self._listeners and now < self._ready_at:
            return Plan((), Why.COALESCING, self._ready_at - now)
        holding = [
            it.full_since + LAGGARD_S - now
            for it in self._listeners.values()
            if it.full_since is not None and not it.lags(now)
        ]
        if holding:
            return Plan((), Why.HELD, max(0.0, min(holding)) + 0.001)
        open_ = [it for it in self._listeners.values() if it.full_since is None]
        missed = 0
        room = limit
        for it in open_:
            missed |= it.missing & ~it.awaiting
            room = min(room, it.credit - (self.published - it.position))
        numbers = tuple(_first(missed, self._cursor, room))
        return Plan(numbers, Why.SENDING if numbers else Why.NOTHING_MISSED)

    def sent(self, number: int, now: float) -> None:
        """Note that chunk ``number`` was published as frame ``published + 1``."""
        self.published += 1
        self._cursor = number + 1
        self._recent.append((number, now))
        for listener in self._listeners.values():
            listener.awaiting |= 1 << number
            self._count_credit(listener, now)

    def absent(self, number: int, now: float) -> None:
        """Note that there is no such chunk, whoever asks for it in ``ABSENT_S``.

        The first of several that are not there sets the time, so that no chunk waits
        for longer and each is looked for once in that time.
        """
        if not self._absent:
            self._absent_until = now + ABSENT_S
        self._absent |= 1 << number
        for device, listener in tuple(self._listeners.items()):
            listener.missing &= ~self._absent
            if not listener.missing:
                del self._listeners[device]

    def _update(self, known: _Listener, seen: int, now: float) -> None:
        """Move the listener's position by what it has seen or has lost."""
        if seen > known.reported:
            if seen < known.base:  # it was on its way all the time
                known.patience_s = min(known.patience_s * 2, LONGEST_LOSS_S)
            known.reported = seen
            known.advanced_at = now
        elif self._lost_all(known, now):
            known.base = self.published
            known.advanced_at = now

    def _lost_all(self, known: _Listener, now: float) -> bool:
        """Return whether all that was on its way must have been lost."""
        on_their_way = self.published - known.position
        if on_their_way == 0:
            return False
        oldest_at = self._recent[-min(on_their_way, len(self._recent))][1]
        return now - max(oldest_at, known.advanced_at) > known.patience_s

    def _on_their_way(self, position: int) -> int:
        count = min(self.published - position, len(self._recent))
        bits = 0
        for at in range(1, count + 1):
            bits |= 1 << self._recent[-at][0]
        return bits

    def _count_credit(self, listener: _Listener, now: float) -> None:
        if self.published - listener.position < listener.credit:
            listener.full_since = None
        elif listener.full_since is None:
            listener.full_since = now

    def _drop_silent(self, now: float) -> None:
        for device, listener in tuple(self._listeners.items()):
            if now - listener.heard_at > SILENT_S:
                del self._listeners[device]


def _first(bits: int, cursor: int, limit: int) -> Iterator[int]:
    """Yield up to ``limit`` set bits from ``cursor`` on, round the end to the start."""
    ahead = bits >> cursor << cursor
    for part in (ahead, bits ^ ahead):
        rest = part
        while rest and limit > 0:
            lowest = rest & -rest
            yield lowest.bit_length() - 1
            rest ^= lowest
            limit -= 1
