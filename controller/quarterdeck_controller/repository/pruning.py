"""Which old versions of signed metadata nobody can need any more (pure).

A device that is in the middle of a refresh holds a timestamp of a moment ago, and asks
for the snapshot that it names and for what that names: the newest few snapshots are
kept, and all of the last day. Roots are never removed: devices walk them one by one.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tuf.api.metadata import Snapshot

from quarterdeck_controller.repository.roles import ROOT, SNAPSHOT, lifetime

KEPT = 3
KEPT_FOR = timedelta(days=1)

_FILE = re.compile(r"(?P<version>[1-9][0-9]{0,9})\.(?P<role>[a-z0-9-]+)\.json")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """One version of one role's metadata."""

    version: int
    role: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.version}.{self.role}.json"


def versions(names: Iterable[str]) -> tuple[Version, ...]:
    """Return the versions that files of these names hold."""
    found = (_FILE.fullmatch(name) for name in names)
    return tuple(Version(int(it["version"]), it["role"]) for it in found if it)


def kept(snapshots: Sequence[Snapshot], now: datetime) -> tuple[Snapshot, ...]:
    """Return those of ``snapshots`` that a device may still be led to."""
    newest = sorted(snapshots, key=lambda it: -it.version)
    since = now - KEPT_FOR
    return tuple(
        it
        for place, it in enumerate(newest)
        if place < KEPT or it.expires - lifetime(SNAPSHOT) >= since
    )


def prunable(
    there: Collection[Version], keep: Sequence[Snapshot]
) -> tuple[Version, ...]:
    """Return the versions ``there`` that no snapshot of ``keep`` leads to.

    What is newer than the newest snapshot says stays: a change may be on its way.
    """
    if not keep:
        return ()
    newest = max(keep, key=lambda it: it.version)
    bound = {name.removesuffix(".json"): it.version for name, it in newest.meta.items()}
    bound[SNAPSHOT] = newest.version
    needed = {Version(it.version, SNAPSHOT) for it in keep} | {
        Version(meta.version, name.removesuffix(".json"))
        for it in keep
        for name, meta in it.meta.items()
    }
    return tuple(
        sorted(
            it
            for it in there
            if it.role != ROOT
            and it not in needed
            and it.version < bound.get(it.role, 0)
        )
    )
