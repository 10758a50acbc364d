"""The controller's memory: transactions over subjects.

A transaction gives a ``Records``: one table class per subject, all on the same
connection, so that what belongs together is committed together. Transactions block:
the service runs them in a thread and never keeps one open over an await.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import Connection

from quarterdeck_controller.store.database import Database
from quarterdeck_controller.store.devices import (
    DeviceTable,
    EventTable,
    PresenceTable,
    ReportTable,
)
from quarterdeck_controller.store.rollouts import (
    AssignmentTable,
    DecisionTable,
    RolloutTable,
)
from quarterdeck_controller.store.windows import WindowTable


@dataclass(frozen=True, slots=True)
class Records:
    """Every subject, within one transaction."""

    devices: DeviceTable
    presence: PresenceTable
    reports: ReportTable
    events: EventTable
    windows: WindowTable
    assignments: AssignmentTable
    rollouts: RolloutTable
    decisions: DecisionTable


class Store:
    """The database of one fleet home. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the store at ``path``, made if there is none.

        Raises:
            QuarterdeckError: ``HOME_INVALID`` when it is damaged or newer than this
                program, ``STORE_BUSY`` when another process holds it.
        """
        return cls(Database(path))

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def read(self) -> Iterator[Records]:
        """Give the records as they are at this moment.

        Raises:
            QuarterdeckError: ``STORE_BUSY`` or ``HOME_INVALID``.
        """
        with self._database.read() as connection:
            yield _records(connection)

    @contextmanager
    def write(self) -> Iterator[Records]:
        """Give the records to change; all is committed at the end, or nothing.

        Raises:
            QuarterdeckError: ``STORE_BUSY``, ``DISK_FULL`` or ``HOME_INVALID``.
        """
        with self._database.write() as connection:
            yield _records(connection)


def _records(connection: Connection) -> Records:
    return Records(
        devices=DeviceTable(connection),
        presence=PresenceTable(connection),
        reports=ReportTable(connection),
        events=EventTable(connection),
        windows=WindowTable(connection),
        assignments=AssignmentTable(connection),
        rollouts=RolloutTable(connection),
        decisions=DecisionTable(connection),
    )
