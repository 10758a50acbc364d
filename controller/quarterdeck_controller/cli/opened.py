"""The guard of every command on a fleet, and times said as people do.

Whoever asks is found out, what they ask for is checked against their role, and what
came of it is recorded, before a command sees anything of the fleet.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import typer

from quarterdeck_controller.access.authenticate import (
    Actor,
    authenticate,
    authorize,
    local_admin,
)
from quarterdeck_controller.access.recording import Recording, recorded, refused
from quarterdeck_controller.access.roles import OWNERS, Act
from quarterdeck_controller.cli.credentials import find, local_user, owns
from quarterdeck_controller.cli.output import err
from quarterdeck_controller.home import Home
from quarterdeck_controller.store.ledger import By
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.errors import RejectedError

SOON = timedelta(days=7)
"""How long before a credential ends its owner is told."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command on the fleet needs.

    Attributes:
        store: Every transaction that writes through it is recorded in the audit log.
    """

    home: Home
    store: Store
    clock: Clock
    actor: Actor
    recording: Recording

    def audit(self, subject: str, **detail: object) -> None:
        """Name what the act is done to, ``<noun>:<id>``, and tell of it.

        Each subject is one entry in the audit log, committed with the transaction that
        is open or with the next; without any, the act is recorded without a subject.
        Name it before what may fail, so that a failure is recorded with it. Tell no
        secrets.
        """
        self.recording.note(subject, **detail)


@contextmanager
def opened(path: Path, act: Act, subject: str = "") -> Iterator[Opened]:
    """Give the fleet at ``path`` to somebody who may do ``act``, and record it.

    ``subject`` is what it is done to, ``<noun>:<id>``, where that is known before.

    Raises:
        RejectedError: ``UNAUTHENTICATED`` or ``NOT_PERMITTED``.
    """
    home, clock = Home.open(path), SystemClock()
    with Store.open(home.database) as store:
        actor = _admitted(home, store, act, clock, subject)
        _warn_if_ending(actor, clock.now())
        with recorded(
            store, actor.doing(act), act, clock, subject=subject
        ) as recording:
            yield Opened(home, recording.store, clock, actor, recording)


def check_admitted(path: Path, act: Act) -> None:
    """Refuse who may not do ``act`` before long work whose end it is.

    Raises:
        RejectedError: ``UNAUTHENTICATED`` or ``NOT_PERMITTED``.
    """
    home = Home.open(path)
    with Store.open(home.database) as store:
        _admitted(home, store, act, SystemClock(), "")


def _admitted(home: Home, store: Store, act: Act, clock: Clock, subject: str) -> Actor:
    user = local_user()
    if act in OWNERS and owns(home):
        return local_admin(user)
    by = By(local_admin(user).name, act=act.word)
    try:
        with store.read() as records:
            # A home without operators asks for nothing, and reads no file to be given.
            known = find(home) if records.operators.exist() else None
            actor = authenticate(records, known, clock.now(), user=user)
        by = actor.doing(act)
        authorize(actor, act)
    except RejectedError as error:
        refused(store, by, error, clock, subject=subject)
        raise
    return actor


def _warn_if_ending(actor: Actor, now: datetime) -> None:
    if actor.expires_at is not None and actor.expires_at - now < SOON:
        err.print(
            f"Your credential ends at {actor.expires_at:%Y-%m-%d %H:%M} UTC; an admin"
            f" renews it with: quarterdeck operator renew {actor.name}",
            markup=False,
        )


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
