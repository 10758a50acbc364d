"""Windows on disk until the controller has them: store and forward, bounded.

One file a window, named by boot and number, so that what is there is what a folder
listing says. A file is renamed when its window is about to be sent for the first time:
from then on the controller may have it, so it is never merged with another. When the
bound is reached, the two unsent neighbours that span least become one; when there are
none, the oldest window is dropped and counted.
"""

import contextlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from quarterdeck_agent.durable import disk_error, write
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.telemetry.window import Ack, Window, merge

CAPACITY = 512
_NAME = re.compile(r"^([0-9a-f]{14})-([0-9a-f]{8})\.(new|sent)$")
_NEW, _SENT = "new", "sent"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A window that waits. ``order`` is the order in which it is sent."""

    order: int
    boot: int
    sequence: int
    span: int
    artifact: str
    sent: bool


class Outbox:
    """The windows that the controller has not acknowledged. One process uses it.

    Attributes:
        dropped: Windows lost for want of room since the start.
    """

    def __init__(self, folder: Path, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self._folder = folder
        self._capacity = capacity
        self._order = 0
        self._entries: dict[tuple[int, int], Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def restore(self) -> None:
        """Read what an earlier boot has left; what is damaged is removed.

        Raises:
            TransientError: The folder cannot be used.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            files = sorted(self._folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        for path in files:
            named = _NAME.match(path.name)
            if named is None or not self._read_in(path, sent=named[3] == _SENT):
                _remove(path)
        self._drop_covered()

    def keep(self, window: Window) -> None:
        """Store a closed window; when the disk refuses, it is lost and counted."""
        try:
            self._store(window)
            while len(self._entries) > self._capacity:
                self._shrink()
        except TransientError as error:
            level = logging.WARNING if not self.dropped else logging.DEBUG
            self.dropped += 1
            log.log(level, "a window could not be kept: %s", error)

    def waiting(self) -> tuple[Entry, ...]:
        """Return what waits, oldest first."""
        return tuple(sorted(self._entries.values()))

    def take(self, entry: Entry) -> bytes | None:
        """Return a window's bytes to be sent; from now on it stays as it is."""
        path = self._path(entry)
        try:
            if not entry.sent:
                sent = replace(entry, sent=True)
                path = path.rename(self._path(sent))
                self._entries[entry.boot, entry.sequence] = sent
            return path.read_bytes()
        except OSError as error:
            log.warning("a window is lost: %s", error)
            self._forget(entry)
            self.dropped += 1
            return None

    def acknowledge(self, ack: Ack) -> None:
        """Forget what the controller has stored."""
        for sequence in ack.sequences:
            entry = self._entries.get((ack.boot, sequence))
            if entry is not None and entry.sent:
                self._forget(entry)

    def _store(self, window: Window) -> None:
        self._order += 1
        entry = _entry(window, self._order, sent=False)
        write(self._path(entry), window.encode())
        self._entries[entry.boot, entry.sequence] = entry

    def _shrink(self) -> None:
        pair = _lightest(self.waiting())
        if pair is None:
            self._forget(self.waiting()[0])
            self.dropped += 1
            return
        older, newer = pair
        windows = [self._read(self._path(entry)) for entry in pair]
        if windows[0] is None or windows[1] is None:
            self._forget(older)
            return
        # The merged window takes the newer one's name. A crash before the older is
        # removed leaves one that is covered, which ``restore`` drops.
        merged = merge(windows[0], windows[1])
        write(self._path(newer), merged.encode())
        entry = replace(newer, span=merged.span)
        self._entries[newer.boot, newer.sequence] = entry
        self._forget(older)

    def _read_in(self, path: Path, *, sent: bool) -> bool:
        window = self._read(path)
        if window is None:
            return False
        self._order += 1
        entry = _entry(window, self._order, sent=sent)
        if self._path(entry) != path:
            return False
        self._entries[entry.boot, entry.sequence] = entry
        return True

    def _read(self, path: Path) -> Window | None:
        try:
            return Window.decode(path.read_bytes())
        except (OSError, RejectedError) as error:
            log.warning("%s is damaged: %s", path.name, error)
            return None

    def _drop_covered(self) -> None:
        for entry in self.waiting():
            within = range(entry.sequence - entry.span + 1, entry.sequence)
            for sequence in within:
                covered = self._entries.get((entry.boot, sequence))
                if covered is not None:
                    self._forget(covered)

    def _forget(self, entry: Entry) -> None:
        self._entries.pop((entry.boot, entry.sequence), None)
        _remove(self._path(entry))

    def _path(self, entry: Entry) -> Path:
        suffix = _SENT if entry.sent else _NEW
        return self._folder / f"{entry.boot:014x}-{entry.sequence:08x}.{suffix}"


def _entry(window: Window, order: int, *, sent: bool) -> Entry:
    return Entry(
        order, window.boot, window.sequence, window.span, window.artifact, sent
    )


def _lightest(entries: Iterable[Entry]) -> tuple[Entry, Entry] | None:
    """Return the unsent neighbours of one boot and artifact that span least."""
    pairs = [
        (a, b)
        for a, b in pairwise(entries)
        if not (a.sent or b.sent)
        and (a.boot, a.artifact) == (b.boot, b.artifact)
        and a.sequence == b.sequence - b.span
    ]
    return min(pairs, key=lambda pair: pair[0].span + pair[1].span, default=None)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
