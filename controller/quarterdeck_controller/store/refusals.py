"""What devices refused, as rows; every one was signed by its device."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from quarterdeck_controller.store.records import StoredRefusal
from quarterdeck_controller.store.schema import refusals
from quarterdeck_shared.refusal import Refusal

KEPT = 200
"""Statements kept of one device, the newest: an attack may not fill the disk."""


@dataclass(frozen=True, slots=True)
class RefusalTable:
    """Refusals, by device, boot and number."""

    connection: Connection

    def add(self, heard: Sequence[StoredRefusal]) -> int:
        """Keep what is new of ``heard`` and return how many that were."""
        values = [_values(item) for item in heard]
        if not values:
            return 0
        statement = insert(refusals).on_conflict_do_nothing()
        added = self.connection.execute(statement, values).rowcount
        for device in {item.refusal.device for item in heard}:
            self._trim(device)
        return added

    def of(self, device: str, *, limit: int = KEPT) -> tuple[StoredRefusal, ...]:
        """Return the newest refusals of ``device``, newest first."""
        rows = self.connection.execute(
            select(refusals.c.body, refusals.c.received_at)
            .where(refusals.c.device == device)
            .order_by(
                refusals.c.received_at.desc(),
                refusals.c.boot,
                refusals.c.number.desc(),
            )
            .limit(limit)
        )
        return tuple(
            StoredRefusal(Refusal.decode(row.body), row.received_at) for row in rows
        )

    def forget(self, before: datetime) -> int:
        """Drop the refusals received before ``before``; return how many."""
        statement = refusals.delete().where(refusals.c.received_at < before)
        return self.connection.execute(statement).rowcount

    def _trim(self, device: str) -> None:
        newest = (
            select(refusals.c.received_at)
            .where(refusals.c.device == device)
            .order_by(refusals.c.received_at.desc())
            .offset(KEPT)
            .limit(1)
            .scalar_subquery()
        )
        self.connection.execute(
            refusals.delete()
            .where(refusals.c.device == device)
            .where(refusals.c.received_at <= newest)
        )


def _values(item: StoredRefusal) -> dict[str, object]:
    refusal = item.refusal
    return {
        "device": refusal.device,
        "boot": refusal.boot,
        "number": refusal.number,
        "received_at": item.received_at,
        "code": str(refusal.code),
        "attack": None if refusal.attack is None else str(refusal.attack),
        "body": refusal.encode(),
    }
