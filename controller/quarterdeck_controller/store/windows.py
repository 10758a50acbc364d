"""Telemetry windows, as rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from quarterdeck_controller.store.records import StoredWindow, Totals
from quarterdeck_controller.store.schema import windows
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import (
    COUNTERS,
    MAX_LATENCY_BYTES,
    Window,
)

PREFIX_DIGITS = 16
"""Hex digits of an artifact's digest that a window carries."""

_ADDED = (
    "requests",
    "errors",
    "dropped",
    "golden_total",
    "golden_ok",
    "label_total",
    "label_ok",
    "restarts",
)


@dataclass(frozen=True, slots=True)
class WindowTable:
    """What devices measured. A window is stored once, however often it arrives."""

    connection: Connection

    def add(self, arrived: Sequence[tuple[StoredWindow, bytes]]) -> int:
        """Keep what is new of the windows and their bytes; return how many."""
        values = [_values(item, body) for item, body in arrived]
        if not values:
            return 0
        statement = insert(windows).on_conflict_do_nothing()
        return self.connection.execute(statement, values).rowcount

    def of(self, device: str, *, limit: int = 100) -> tuple[Window, ...]:
        """Return the newest windows of ``device``, newest first."""
        rows = self.connection.execute(
            select(windows.c.body)
            .where(windows.c.device == device)
            .order_by(windows.c.started.desc(), windows.c.sequence.desc())
            .limit(limit)
        )
        return tuple(Window.decode(row.body) for row in rows)

    def totals(
        self,
        *,
        since: datetime | None = None,
        artifacts: Iterable[str] | None = None,
        latency: bool = True,
    ) -> tuple[Totals, ...]:
        """Return the windows added up by device and artifact.

        Args:
            since: Only windows that started at this moment or later.
            artifacts: Only these digests, or prefixes of at least 16 digits.
            latency: Merge the latency sketches too, which costs far more.
        """
        condition = _condition(since, artifacts)
        sketches = self._sketches(condition) if latency else {}
        rows = self.connection.execute(
            select(
                windows.c.device,
                windows.c.artifact,
                func.count().label("windows"),
                *(func.sum(windows.c[name]).label(name) for name in _ADDED),
                func.max(windows.c.rss_mb).label("rss_mb"),
                func.max(windows.c.started).label("last"),
            )
            .where(*condition)
            .group_by(windows.c.device, windows.c.artifact)
            .order_by(windows.c.device, windows.c.artifact)
        )
        nothing = Sketch()
        return tuple(
            Totals(
                **row._asdict(),
                latency=sketches.get((row.device, row.artifact), nothing),
            )
            for row in rows
        )

    def forget(self, before: datetime) -> int:
        """Drop the windows that started before ``before``; return how many."""
        statement = windows.delete().where(windows.c.started < before)
        return self.connection.execute(statement).rowcount

    def _sketches(
        self, condition: Sequence[ColumnElement[bool]]
    ) -> dict[tuple[str, str], Sketch]:
        rows = self.connection.execute(
            select(windows.c.device, windows.c.artifact, windows.c.latency).where(
                *condition
            )
        )
        merged: dict[tuple[str, str], Sketch] = {}
        for row in rows:
            key, sketch = (row.device, row.artifact), Sketch.decode(row.latency)
            merged[key] = merged[key].merged(sketch) if key in merged else sketch
        return merged


def _condition(
    since: datetime | None, artifacts: Iterable[str] | None
) -> list[ColumnElement[bool]]:
    condition: list[ColumnElement[bool]] = []
    if since is not None:
        # Windows are short, so the index on their start narrows well enough.
        condition.append(windows.c.started >= since)
    if artifacts is not None:
        prefixes = [digest[:PREFIX_DIGITS] for digest in artifacts]
        condition.append(windows.c.artifact.in_(prefixes))
    return condition


def _values(item: StoredWindow, body: bytes) -> dict[str, object]:
    window = item.window
    return {
        "device": item.device,
        "boot": window.boot,
        "sequence": window.sequence,
        "artifact": window.artifact,
        "started": window.started,
        "duration_ms": window.duration // timedelta(milliseconds=1),
        **dict(zip(COUNTERS, window.counters(), strict=True)),
        "latency": window.latency.encode(MAX_LATENCY_BYTES),
        "body": body,
    }
