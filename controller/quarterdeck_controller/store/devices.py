"""Devices, their presence and what they reported, as rows."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Connection, Row, bindparam, select, update
from sqlalchemy.dialects.sqlite import insert

from quarterdeck_controller.store.identity import changed
from quarterdeck_controller.store.records import (
    Device,
    DeviceEvent,
    Presence,
    Report,
    Standing,
)
from quarterdeck_controller.store.schema import devices, events, presence, reported
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.reported import Reported

EVENTS_KEPT = 1000
"""Events kept of one device, the newest: no device may fill the disk."""


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """The inventory."""

    connection: Connection

    def add(self, device: Device) -> bool:
        """Record ``device``; return False, and change nothing, if its id exists."""
        values = asdict(device) | {"tags": list(device.tags)}
        statement = insert(devices).values(values).on_conflict_do_nothing()
        return self.connection.execute(statement).rowcount > 0

    def add_all(self, entered: Sequence[Device]) -> None:
        """Record many devices, of which there must be none yet."""
        if entered:
            rows = [asdict(it) | {"tags": list(it.tags)} for it in entered]
            self.connection.execute(insert(devices), rows)

    def revoke(self, device: str, why: str, now: datetime) -> None:
        """Note that ``device`` may not speak to the fleet any more."""
        self._set(device, revoked_at=now, revoked_why=why)

    def readmit(self, device: str) -> None:
        """Note that ``device`` may speak again, once it has enrolled anew."""
        self._set(device, revoked_at=None, revoked_why="", seal_key=None)

    def seal_to(self, device: str, key: bytes | None) -> None:
        """Note the key to which content keys of ``device`` are sealed."""
        self._set(device, seal_key=key)

    def _set(self, device: str, **values: object) -> None:
        self.connection.execute(
            update(devices).where(devices.c.id == device).values(**values)
        )
        changed(self.connection)

    def revoked(self) -> tuple[str, ...]:
        """Return the ids of the devices that may not speak to the fleet."""
        rows = self.connection.execute(
            select(devices.c.id)
            .where(devices.c.revoked_at.is_not(None))
            .order_by(devices.c.id)
        )
        return tuple(row.id for row in rows)

    def classes(self) -> dict[str, str]:
        """Return the class of every device that may speak to the fleet."""
        rows = self.connection.execute(
            select(devices.c.id, devices.c.device_class).where(
                devices.c.revoked_at.is_(None)
            )
        )
        return {row.id: row.device_class for row in rows}

    def get(self, device: str) -> Device | None:
        """Return the device of that id."""
        row = self.connection.execute(
            select(devices).where(devices.c.id == device)
        ).one_or_none()
        return None if row is None else _device(row)

    def some(self, ids: Collection[str]) -> dict[str, Device]:
        """Return those of ``ids`` that there are, at most a few thousand."""
        rows = self.connection.execute(select(devices).where(devices.c.id.in_(ids)))
        return {row.id: _device(row) for row in rows}

    def all(self) -> tuple[Device, ...]:
        """Return every device, by id."""
        rows = self.connection.execute(select(devices).order_by(devices.c.id))
        return tuple(_device(row) for row in rows)


@dataclass(frozen=True, slots=True)
class PresenceTable:
    """Sessions, as last heard."""

    connection: Connection

    def get(self, device: str) -> Presence | None:
        """Return the presence of ``device``; None when it was never heard."""
        row = self.connection.execute(
            select(presence).where(presence.c.device == device)
        ).one_or_none()
        return None if row is None else Presence(**row._asdict())

    def some(self, ids: Collection[str]) -> dict[str, Presence]:
        """Return the presence of those of ``ids`` that were ever heard."""
        rows = self.connection.execute(
            select(presence).where(presence.c.device.in_(ids))
        )
        return {row.device: Presence(**row._asdict()) for row in rows}

    def all(self) -> dict[str, Presence]:
        """Return every presence, by device."""
        rows = self.connection.execute(select(presence))
        return {row.device: Presence(**row._asdict()) for row in rows}

    def put(self, changed: Iterable[Presence]) -> None:
        """Record each presence as it is now."""
        values = [asdict(item) for item in changed]
        if values:
            statement = insert(presence)
            columns = {c.name: c for c in statement.excluded if c.name != "device"}
            self.connection.execute(
                statement.on_conflict_do_update(["device"], set_=columns), values
            )

    def saw(self, heard: Mapping[str, datetime]) -> None:
        """Note when each device was last heard."""
        if heard:
            self.connection.execute(
                update(presence)
                .where(presence.c.device == bindparam("heard"))
                .where(presence.c.last_seen < bindparam("at"))
                .values(last_seen=bindparam("at")),
                [{"heard": device, "at": at} for device, at in heard.items()],
            )


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Reported states, the last accepted one per device."""

    connection: Connection

    def get(self, device: str) -> Report | None:
        """Return the last accepted report of ``device``."""
        row = self.connection.execute(
            select(
                reported.c.body, reported.c.received_at, reported.c.settled_at
            ).where(reported.c.device == device)
        ).one_or_none()
        if row is None:
            return None
        return Report(Reported.decode(row.body), row.received_at, row.settled_at)

    def standings(self) -> dict[str, Standing]:
        """Return what decisions need of every report, by device."""
        rows = self.connection.execute(
            select(*(reported.c[name] for name in _STANDING))
        )
        return {row.device: _standing(row) for row in rows}

    def sequences(self, ids: Collection[str]) -> dict[str, int]:
        """Return the newest sequence that those of ``ids`` told about."""
        rows = self.connection.execute(
            select(reported.c.device, reported.c.update_sequence).where(
                reported.c.device.in_(ids)
            )
        )
        return {row.device: row.update_sequence for row in rows}

    def some(self, ids: Collection[str]) -> dict[str, Report]:
        """Return the reports of those of ``ids`` that have one."""
        rows = self.connection.execute(
            select(
                reported.c.device,
                reported.c.body,
                reported.c.received_at,
                reported.c.settled_at,
            ).where(reported.c.device.in_(ids))
        )
        return {
            row.device: Report(
                Reported.decode(row.body), row.received_at, row.settled_at
            )
            for row in rows
        }

    def put(self, reports: Iterable[Report]) -> None:
        """Keep each report in place of the one before."""
        values = [_report_values(report) for report in reports]
        if values:
            statement = insert(reported)
            columns = {c.name: c for c in statement.excluded if c.name != "device"}
            self.connection.execute(
                statement.on_conflict_do_update(["device"], set_=columns), values
            )


@dataclass(frozen=True, slots=True)
class EventTable:
    """Steps that devices told about."""

    connection: Connection

    def add(self, heard: Sequence[DeviceEvent]) -> int:
        """Keep what is new of ``heard`` and return how many that were."""
        values = [
            {
                "device": item.device,
                "boot": item.event.boot,
                "number": item.event.number,
                "received_at": item.received_at,
                "body": item.event.encode(),
            }
            for item in heard
        ]
        if not values:
            return 0
        statement = insert(events).on_conflict_do_nothing()
        added = self.connection.execute(statement, values).rowcount
        for device in {item.device for item in heard}:
            self._trim(device)
        return added

    def of(self, device: str, *, limit: int = 20) -> tuple[DeviceEvent, ...]:
        """Return the newest events of ``device``, newest first."""
        rows = self.connection.execute(
            select(events)
            .where(events.c.device == device)
            .order_by(events.c.received_at.desc(), events.c.number.desc())
            .limit(limit)
        )
        return tuple(
            DeviceEvent(row.device, StepEvent.decode(row.body), row.received_at)
            for row in rows
        )

    def forget(self, before: datetime) -> int:
        """Drop the events received before ``before``; return how many."""
        statement = events.delete().where(events.c.received_at < before)
        return self.connection.execute(statement).rowcount

    def _trim(self, device: str) -> None:
        newest = (
            select(events.c.received_at)
            .where(events.c.device == device)
            .order_by(events.c.received_at.desc())
            .offset(EVENTS_KEPT)
            .limit(1)
            .scalar_subquery()
        )
        self.connection.execute(
            events.delete()
            .where(events.c.device == device)
            .where(events.c.received_at <= newest)
        )


_STANDING = (
    "device",
    "active_release",
    "active_digest",
    "previous_release",
    "previous_digest",
    "update_sequence",
    "update_digest",
    "outcome",
    "code",
    "detail",
    "settled_at",
    "capabilities",
)
_CODES = {str(code): code for code in Code}


def _device(row: Row[tuple[object, ...]]) -> Device:
    values = row._asdict()
    return Device(**values | {"tags": tuple(row.tags)})


def _standing(row: Row[tuple[object, ...]]) -> Standing:
    values = row._asdict()
    values["code"] = _CODES.get(row.code)
    values["capabilities"] = _capabilities(row.capabilities)
    return Standing(**values)


@lru_cache(maxsize=1024)
def _capabilities(body: str) -> Capabilities:
    # A fleet has few kinds of machine: each is parsed once.
    return Capabilities.decode(body.encode())


def _report_values(report: Report) -> dict[str, object]:
    it = report.reported
    newest = it.update
    return {
        "device": it.device,
        "boot": it.boot,
        "step": it.step,
        "active_release": it.active.release if it.active else None,
        "active_digest": it.active.digest if it.active else None,
        "previous_release": it.previous.release if it.previous else None,
        "previous_digest": it.previous.digest if it.previous else None,
        "update_sequence": newest.sequence if newest else 0,
        "update_digest": newest.digest if newest else None,
        "outcome": newest.outcome if newest else None,
        "code": newest.code if newest else None,
        "detail": newest.detail if newest else "",
        "capabilities": it.capabilities.encode().decode(),
        "received_at": report.received_at,
        "settled_at": report.settled_at,
        "body": it.encode(),
    }
