"""Open the SQLite file, and run one transaction on it.

The service and any number of commands use the file at the same time: write-ahead
logging lets them read while one writes, and writers wait for each other. Every
commit is synced to the disk before it returns, because what follows a commit (an
assignment published, a window acknowledged) cannot be taken back.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from sqlalchemy import Connection, Engine, create_engine, event, exc, text

from quarterdeck_controller.store.schema import SCHEMA_VERSION, metadata
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError

BUSY_TIMEOUT_MS = 10_000


class _Cursor(Protocol):
    def execute(self, statement: str, /) -> object: ...
    def close(self) -> None: ...


class _DriverConnection(Protocol):
    isolation_level: str | None

    def cursor(self) -> _Cursor: ...


class Database:
    """One SQLite file. Safe to use from several threads.

    Args:
        prepare: Make what is missing and check the version, which waits for a writer.
    """

    def __init__(self, path: Path, *, prepare: bool = True) -> None:
        self.path = path
        self._engine = _engine(path)
        if prepare:
            with self._translated():
                _prepare(self._engine, path)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one unchanging state.

        Raises:
            QuarterdeckError: ``STORE_BUSY``, ``DISK_FAILED`` or ``HOME_INVALID``.
        """
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection that alone may write until the block ends.

        Everything in the block is committed together, or nothing is.

        Raises:
            QuarterdeckError: ``STORE_BUSY``, ``DISK_FULL``, ``DISK_FAILED`` or
                ``HOME_INVALID``.
        """
        writer = self._engine.execution_options(immediate=True)
        with self._translated(), writer.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise
        except exc.DatabaseError as error:
            raise _translate(self.path, error) from error


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite+pysqlite:///{path}")

    def connected(raw: _DriverConnection, _record: object) -> None:
        raw.isolation_level = None  # we say BEGIN ourselves
        cursor = raw.cursor()
        for pragma in (
            f"busy_timeout = {BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def began(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        # A reader that turns writer half-way cannot wait for another writer:
        # SQLite fails it at once. So a writer says so at the start.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)
    return engine


def _prepare(engine: Engine, path: Path) -> None:
    with engine.execution_options(immediate=True).begin() as connection:
        found = connection.execute(text("PRAGMA user_version")).scalar_one()
        if found > SCHEMA_VERSION:
            raise RejectedError(
                Code.HOME_INVALID,
                f"{path} has schema version {found}, this program knows"
                f" {SCHEMA_VERSION}: update Quarterdeck",
            )
        if 0 < found < SCHEMA_VERSION:
            raise RejectedError(
                Code.HOME_INVALID,
                f"{path} has schema version {found}, this program needs"
                f" {SCHEMA_VERSION}, and there is no way to bring it up to date: make"
                " a new home, or go on with the program that made this one",
            )
        if found == 0:
            metadata.create_all(connection)
            connection.execute(text(f"PRAGMA user_version = {SCHEMA_VERSION}"))


_TRANSIENT = MappingProxyType(
    {
        sqlite3.SQLITE_BUSY: Code.STORE_BUSY,
        sqlite3.SQLITE_LOCKED: Code.STORE_BUSY,
        sqlite3.SQLITE_FULL: Code.DISK_FULL,
        sqlite3.SQLITE_IOERR: Code.DISK_FAILED,
        sqlite3.SQLITE_READONLY: Code.DISK_FAILED,
        sqlite3.SQLITE_CANTOPEN: Code.DISK_FAILED,
    }
)
"""What may work later. A full disk shows as an I/O error, too, when it is the shared
memory beside the file that finds no room."""


def _translate(path: Path, error: exc.DatabaseError) -> QuarterdeckError:
    # The low byte is the primary result code; the others say more of the same.
    primary = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    code, told = _TRANSIENT.get(primary), f"{path}: {error.orig}"
    if code is None:
        return RejectedError(Code.HOME_INVALID, told)
    return TransientError(code, told)
