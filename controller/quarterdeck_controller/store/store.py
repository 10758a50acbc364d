"""The controller's memory: transactions over subjects.

A transaction gives a ``Records``: one table class per subject, all on the same
connection, so that what belongs together is committed together. Transactions block:
the service runs them in a thread and never keeps one open over an await.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import Connection

from quarterdeck_controller.store.access import AuditTable, OperatorTable
from quarterdeck_controller.store.database import Database
from quarterdeck_controller.store.devices import (
    DeviceTable,
    EventTable,
    PresenceTable,
    ReportTable,
)
from quarterdeck_controller.store.identity import (
    CertificateTable,
    ClaimTable,
    RevisionTable,
    TokenTable,
)
from quarterdeck_controller.store.ledger import CONTROLLER, By
from quarterdeck_controller.store.refusals import RefusalTable
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
    claims: ClaimTable
    tokens: TokenTable
    certificates: CertificateTable
    revisions: RevisionTable
    presence: PresenceTable
    reports: ReportTable
    events: EventTable
    refusals: RefusalTable
    windows: WindowTable
    assignments: AssignmentTable
    rollouts: RolloutTable
    decisions: DecisionTable
    operators: OperatorTable
    audit: AuditTable


BeforeCommit = Callable[[Records], None]


class Store:
    """The database of one fleet home. Safe to use from several threads.

    Args:
        by: Who acts in its transactions, as the audit log will say.
        before_commit: Is called at the end of every transaction that may write.
    """

    def __init__(
        self,
        database: Database,
        *,
        by: By = CONTROLLER,
        before_commit: BeforeCommit | None = None,
    ) -> None:
        self._database = database
        self._by = by
        self._before_commit = before_commit

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the store at ``path``, made if there is none.

        Raises:
            QuarterdeckError: ``HOME_INVALID`` when it is damaged or newer than this
                program, ``STORE_BUSY`` when another process holds it.
        """
        return cls(Database(path))

    @classmethod
    def look(cls, path: Path) -> Self:
        """Return the store at ``path`` for reading while somebody may be writing.

        It waits for nobody, not even for the transaction of whoever calls.
        """
        return cls(Database(path, prepare=False))

    def acting(self, by: By, before_commit: BeforeCommit | None = None) -> "Store":
        """Return the same store for transactions of ``by``; this one closes both."""
        return Store(self._database, by=by, before_commit=before_commit)

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
            yield _records(connection, self._by)

    @contextmanager
    def write(self) -> Iterator[Records]:
        """Give the records to change; all is committed at the end, or nothing.

        Raises:
            QuarterdeckError: ``STORE_BUSY``, ``DISK_FULL`` or ``HOME_INVALID``.
        """
        with self._database.write() as connection:
            records = _records(connection, self._by)
            yield records
            if self._before_commit is not None:
                self._before_commit(records)


def _records(connection: Connection, by: By) -> Records:
    audit = AuditTable(connection, by)
    return Records(
        devices=DeviceTable(connection),
        claims=ClaimTable(connection),
        tokens=TokenTable(connection),
        certificates=CertificateTable(connection),
        revisions=RevisionTable(connection),
        presence=PresenceTable(connection),
        reports=ReportTable(connection),
        events=EventTable(connection),
        refusals=RefusalTable(connection),
        windows=WindowTable(connection),
        assignments=AssignmentTable(connection),
        rollouts=RolloutTable(connection),
        decisions=DecisionTable(connection, audit),
        operators=OperatorTable(connection),
        audit=audit,
    )
