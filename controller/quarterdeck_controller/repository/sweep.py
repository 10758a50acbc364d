"""Remove the files of metadata that no device can be led to any more."""

import contextlib
from datetime import datetime

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Snapshot

from quarterdeck_controller.repository.journal import Journal
from quarterdeck_controller.repository.pruning import kept, prunable, versions
from quarterdeck_controller.repository.roles import SNAPSHOT


def sweep(journal: Journal, now: datetime) -> None:
    """Remove what ``pruning`` finds; what cannot be removed is tried again later."""
    there = versions(journal.names())
    snapshots = [
        found
        for it in there
        if it.role == SNAPSHOT
        and (found := _snapshot(journal.read(it.file))) is not None
    ]
    for old in prunable(there, kept(snapshots, now)):
        with contextlib.suppress(OSError):
            journal.remove(old.file)


def _snapshot(data: bytes | None) -> Snapshot | None:
    if data is None:
        return None
    with contextlib.suppress(RepositoryError):  # of a change that was cut short
        return Metadata[Snapshot].from_bytes(data).signed
    return None
