"""Operators and the audit log, as rows."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import reduce

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    Text,
    cast,
    func,
    insert,
    select,
    update,
)

from quarterdeck_controller.store.ledger import (
    START,
    By,
    Entry,
    Head,
    Kept,
    Outcome,
    Raw,
    seal,
)
from quarterdeck_controller.store.schema import audit, operators

ACCEPT = "audit.accept"
"""The act of an admin who knows why the log lacks what a signed head knows."""

_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may ask things of the controller.

    Attributes:
        token_digest: sha256 of the token; None for one who has a certificate.
        certificate: sha256 of the certificate (DER); None for one who has a token.
        expires_at: From when on the token or certificate is no longer good.
    """

    name: str
    role: str
    created_at: datetime
    expires_at: datetime
    token_digest: str | None = None
    certificate: str | None = None
    revoked_at: datetime | None = None

    def usable(self, now: datetime) -> bool:
        """Return whether this operator can act at all."""
        return self.revoked_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True)
class OperatorTable:
    """Who may ask. Nobody is ever removed: the audit log names them."""

    connection: Connection

    def exist(self) -> bool:
        """Return whether there was ever an operator in this home."""
        query = select(operators.c.name).limit(1)
        return self.connection.execute(query).first() is not None

    def add(self, operator: Operator) -> bool:
        """Record ``operator``; return False, and change nothing, if the name exists."""
        if self.get(operator.name) is not None:
            return False
        self.connection.execute(insert(operators).values(asdict(operator)))
        return True

    def get(self, name: str) -> Operator | None:
        """Return the operator of that name."""
        return self._one(operators.c.name == name)

    def by_token(self, token_digest: str) -> Operator | None:
        """Return the operator whose token has this sha256."""
        return self._one(operators.c.token_digest == token_digest)

    def by_certificate(self, certificate: str) -> Operator | None:
        """Return the operator whose certificate has this sha256."""
        return self._one(operators.c.certificate == certificate)

    def all(self) -> tuple[Operator, ...]:
        """Return every operator there ever was, by name."""
        rows = self.connection.execute(select(operators).order_by(operators.c.name))
        return tuple(Operator(**row._asdict()) for row in rows)

    def change(self, operator: Operator) -> None:
        """Replace what is recorded of the operator of that name."""
        statement = update(operators).where(operators.c.name == operator.name)
        self.connection.execute(statement.values(asdict(operator)))

    def _one(self, condition: ColumnElement[bool]) -> Operator | None:
        row = self.connection.execute(select(operators).where(condition)).one_or_none()
        return None if row is None else Operator(**row._asdict())


class AuditTable:
    """The audit log. It is only ever appended to.

    Args:
        by: Who acts in this transaction.
    """

    def __init__(self, connection: Connection, by: By) -> None:
        self._connection = connection
        self.by = by
        self.subjects: set[str] = set()
        """Subjects of what was appended in this transaction."""

    def append(self, *entries: Entry) -> Head:
        """Record ``entries`` in this order, and return the log's new head.

        They are committed with whatever else the transaction changes.
        """
        head, values = self.head(), []
        for entry in entries:
            kept = seal(entry, self.by, head)
            head = kept.head
            values.append(asdict(kept))
            self.subjects.add(kept.subject)
        if values:
            self._connection.execute(insert(audit), values)
        return head

    def head(self) -> Head:
        """Return the log's head: number 0 when it is empty."""
        newest = select(audit.c.number, audit.c.digest).order_by(audit.c.number.desc())
        row = self._connection.execute(newest.limit(1)).first()
        return START if row is None else Head(row.number, row.digest)

    def count(self) -> int:
        """Return how many entries are there."""
        query = select(func.count()).select_from(audit)
        return self._connection.execute(query).scalar_one()

    def get(self, number: int) -> Kept | None:
        """Return the entry of that number."""
        query = select(audit).where(audit.c.number == number)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _kept(row)

    def digest(self, number: int) -> str | None:
        """Return the digest of the entry of that number."""
        query = select(audit.c.digest).where(audit.c.number == number)
        return self._connection.execute(query).scalar_one_or_none()

    def departs_from(self, head: Head) -> bool:
        """Return whether the log contradicts ``head``, and nobody has accepted that."""
        if self.digest(head.number) == head.sha256:
            return False
        accepted = self.newest(_AT_ONCE, subject=head.subject, act=ACCEPT)
        return not any(_is_accepted(kept, head) for kept in accepted)

    def newest(
        self,
        limit: int,
        *,
        subject: str | None = None,
        actor: str | None = None,
        act: str | None = None,
        since: datetime | None = None,
    ) -> tuple[Kept, ...]:
        """Return the newest entries to which all that is given applies, oldest first.

        ``subject`` and ``act`` also match what begins with them and a separator:
        ``device`` matches ``device:till-1``, and ``key`` matches ``key.change``.
        """
        query = select(audit).order_by(audit.c.number.desc()).limit(limit)
        if subject is not None:
            query = query.where(_begins(audit.c.subject, subject, ":"))
        if act is not None:
            query = query.where(_begins(audit.c.act, act, "."))
        if actor is not None:
            query = query.where(audit.c.actor == actor)
        if since is not None:
            query = query.where(audit.c.at >= since)
        rows = self._connection.execute(query).all()
        return tuple(_kept(row) for row in reversed(rows))

    def every(self) -> Iterator[Raw]:
        """Give every entry by its number, as it is found, a few at a time."""
        after = -(1 << 63)  # a number that somebody put there may be negative
        while rows := self._after(after):
            yield from rows
            after = rows[-1].number

    def _after(self, number: int) -> Sequence[Raw]:
        query = _RAW.where(audit.c.number > number).limit(_AT_ONCE)
        rows = self._connection.execute(query)
        return [Raw(**row._asdict()) for row in rows]


_COLUMNS = [column for column in audit.columns if column is not audit.c.number]
_TYPES: list[ColumnElement[str]] = [
    func.typeof(column, type_=Text) for column in _COLUMNS
]
_RAW = select(
    audit.c.number,
    *(cast(column, LargeBinary).label(column.name) for column in _COLUMNS),
    reduce(lambda before, kind: before + " " + kind, _TYPES).label("types"),
).order_by(audit.c.number)


def _is_accepted(kept: Kept, head: Head) -> bool:
    try:
        told = kept.fields
    except ValueError:
        return False
    match told:
        case {"outcome": Outcome.DONE, "detail": {"sha256": head.sha256}}:
            return True
        case _:
            return False


def _begins(
    column: ColumnElement[str], wanted: str, separator: str
) -> ColumnElement[bool]:
    return (column == wanted) | column.startswith(wanted + separator, autoescape=True)


def _kept(row: Row[tuple[object, ...]]) -> Kept:
    return Kept(**row._asdict())
