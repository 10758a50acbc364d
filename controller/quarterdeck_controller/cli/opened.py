"""Open the fleet's database for one command, and say times as people do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.output import err
from quarterdeck_controller.home import Home
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command on the fleet needs."""

    home: Home
    store: Store
    clock: Clock


@contextmanager
def opened(path: Path, act: Act) -> Iterator[Opened]:
    """Give the fleet at ``path`` to somebody who may do ``act``."""
    home = Home.open(path)
    with Store.open(home.database) as store:
        yield Opened(home, store, SystemClock())


def hint_if_unserved(home: Home) -> None:
    """Tell, on standard error, that what was asked for waits for a controller."""
    if not _is_served(home):
        err.print(
            "No controller serves this home now; start one with: quarterdeck serve"
        )


def _is_served(home: Home) -> bool:
    # Trying the lock would turn away a controller that starts at this moment.
    try:
        pid = int((home.path / "serve.lock").read_text("ascii"))
        return b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def ago(moment: datetime | None, now: datetime) -> str:
    """Return how long ago ``moment`` was, for people."""
    if moment is None:
        return "never"
    seconds = max(0.0, (now - moment).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(?P<number>[0-9]{1,6}(?:\.[0-9]{1,3})?)(?P<unit>[smhd]?)")


def span(text: str) -> timedelta:
    """Return the time that ``text`` spells: ``90``, ``90s``, ``10m``, ``2h``, ``7d``.

    Raises:
        typer.BadParameter: It spells none.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time; write 90s, 10m, 2h or 7d")
    return timedelta(seconds=float(found["number"]) * _UNITS[found["unit"] or "s"])
