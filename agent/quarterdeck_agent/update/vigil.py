"""Keeps signed metadata fresh while nothing is assigned, and notices that it is not.

A device that is told nothing cannot know what it misses. So it refreshes when it hears
that there is a newer timestamp, at a moment of its own within a while, since a fleet
hears it at once; and every half day whatever it hears. A release that was revoked is
noticed so, and metadata that somebody withholds: that is no error in itself, since
networks fail, but it must be seen when it goes on for long.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from quarterdeck_agent.update import decide
from quarterdeck_agent.update.record import Reason
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.patience import wait_at_most

EVERY_S = 12 * 3600.0
"""A refresh is due after this, whatever was heard; a timestamp is valid for a day."""

LONG_S = 15 * 60.0
"""Metadata that cannot be had for so long, though the controller is there, is told."""

AGAIN_S = 6 * 3600.0
"""And told again after so long."""

_MAX_BYTES = 4 << 10
log = logging.getLogger(__name__)


class Refresher(Protocol):
    """What the vigil needs of the device's trust."""

    def refresh(self) -> None:
        """Bring signed metadata up to date. Blocking: called in a thread."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """What there is to judge by.

    Attributes:
        failing_s: How long every attempt has failed while there was a broker.
        connected: Whether the broker is there.
        controller: Whether the controller is there, as far as the broker tells.
        expired: Whether the newest metadata that is here has expired.
    """

    failing_s: float
    connected: bool
    controller: bool
    expired: bool


def judged(view: View) -> Attack | None:
    """Return what it looks like that no metadata comes, or None as long as it is none.

    Metadata that expired without any newer is a freeze, even when the controller seems
    to be away: whoever has the broker can make it seem so.
    """
    if not view.connected or view.failing_s < LONG_S:
        return None
    if view.expired:
        return Attack.FREEZE
    return Attack.SLOW_RETRIEVAL if view.controller else None


class Vigil:
    """Refreshes when it is time. All methods but ``trust.refresh`` are on one loop.

    Args:
        cached: Where the newest accepted timestamp lies.
        spread_s: A fleet spreads its refreshes over this after news.
        draw: Returns a number from 0 to 1.
        connected: Whether the broker is there.
        controller: Whether the controller says that it is there.
        refused: Told of metadata that was refused.
        stale: Told of metadata that is withheld.

    Attributes:
        trouble: Why the metadata is not up to date; None when it is.
    """

    def __init__(
        self,
        trust: Refresher,
        cached: Path,
        *,
        clock: Clock,
        spread_s: float,
        draw: Callable[[], float],
        connected: Callable[[], bool],
        controller: Callable[[], bool],
        refused: Callable[[Code, str], None],
        stale: Callable[[Attack, str], None],
    ) -> None:
        self.trouble: Reason | None = None
        self._trust = trust
        self._cached = cached
        self._clock = clock
        self._spread_s = spread_s
        self._draw = draw
        self._connected = connected
        self._controller = controller
        self._refused = refused
        self._stale = stale
        self._due_s = clock.monotonic() + EVERY_S * draw()
        self._since_s: float | None = None
        self._told_s: float | None = None
        self._failures = 0
        self._changed = asyncio.Event()

    def hear(self, timestamp: bytes) -> None:
        """Take note of the newest timestamp, unverified: a hint to refresh."""
        if timestamp == self._newest():
            return
        due_s = self._clock.monotonic() + self._spread_s * self._draw()
        if due_s < self._due_s:
            self._due_s = due_s
            self._changed.set()

    def suspect(self) -> None:
        """Look now: an assignment waits for metadata that did not come."""
        if self.trouble is None:
            self._due_s = min(self._due_s, self._clock.monotonic())
            self._changed.set()

    async def run(self) -> None:
        """Refresh when it is due until cancelled."""
        while True:
            left = self._due_s - self._clock.monotonic()
            if left > 0:
                self._changed.clear()
                await wait_at_most(self._changed, left)
                continue
            await self._refresh()

    async def _refresh(self) -> None:
        began = self._clock.monotonic()
        try:
            await asyncio.to_thread(self._trust.refresh)
        except TransientError as error:
            self._failed(Reason.of(error), began)
        except RejectedError as error:
            self._failed(Reason.of(error), began)
            self._refused(error.code, error.detail)
        else:
            self._failures, self._since_s, self.trouble = 0, None, None
            self._due_s = self._clock.monotonic() + EVERY_S * (0.5 + 0.5 * self._draw())

    def _failed(self, reason: Reason, began: float) -> None:
        level = logging.WARNING if self.trouble is None else logging.DEBUG
        log.log(level, "no new metadata: %s: %s", reason.code, reason.detail)
        self.trouble = reason
        self._failures += 1
        now = self._clock.monotonic()
        self._due_s = now + decide.retry_after(self._failures, self._draw())
        if not self._connected():
            self._since_s = None  # nobody withholds what nobody could bring
        elif self._since_s is None:
            self._since_s = began
        self._look(now)

    def _look(self, now: float) -> None:
        view = View(
            failing_s=now - (now if self._since_s is None else self._since_s),
            connected=self._connected(),
            controller=self._controller(),
            expired=self._expired(),
        )
        attack = judged(view)
        told_long_ago = self._told_s is None or now - self._told_s >= AGAIN_S
        if attack is None or not told_long_ago:
            return
        self._told_s = now
        self._stale(attack, f"no new metadata for {view.failing_s / 60:.0f} minutes")

    def _newest(self) -> bytes:
        try:
            with self._cached.open("rb") as file:
                return file.read(_MAX_BYTES)
        except OSError:
            return b""

    def _expired(self) -> bool:
        # Only a label hangs on it: what may be used is judged elsewhere.
        try:
            expires = json.loads(self._newest())["signed"]["expires"]
            return self._clock.now() >= datetime.fromisoformat(expires)
        except (ValueError, KeyError, TypeError):
            return False
