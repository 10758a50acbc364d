"""Apply what devices said to the store, message by message, a batch a transaction.

What a message may change is decided by ``fleet/presence.py``; a message that makes no
sense, or comes from a device nobody enrolled, is logged once and dropped.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from quarterdeck_controller.fleet.presence import (
    Heard,
    contested,
    duplicate,
    fresh,
    hear,
)
from quarterdeck_controller.store.records import Device, DeviceEvent, Presence, Report
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.reported import LastUpdate, Reported, SessionState

MAX_SCOLDED = 20_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch led to.

    Attributes:
        unborn: Devices that spoke and whose birth is not known.
        born: Devices that said they are online.
        contested: Devices of which one boot spoke while another is believed online.
        duplicates: Those of them of which it is known that two agents use them.
        changed: Whether a plan could come out differently now.
    """

    unborn: frozenset[str] = frozenset()
    born: frozenset[str] = frozenset()
    contested: frozenset[str] = frozenset()
    duplicates: frozenset[str] = frozenset()
    changed: bool = False


@dataclass(slots=True)
class _Batch:
    """What one batch has seen so far."""

    devices: dict[str, Device]
    presence: dict[str, Presence]
    reports: dict[str, Report]
    changed_presence: set[str] = field(default_factory=set)
    changed_reports: set[str] = field(default_factory=set)
    events: list[DeviceEvent] = field(default_factory=list)
    unborn: set[str] = field(default_factory=set)
    born: set[str] = field(default_factory=set)
    contested: set[str] = field(default_factory=set)
    duplicates: set[str] = field(default_factory=set)
    seen: dict[str, datetime] = field(default_factory=dict)
    changed: bool = False


class Writer:
    """Applies messages to the store, in the order in which they came."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scolded: set[tuple[str, str]] = set()

    def write(self, batch: Sequence[tuple[Message, datetime]]) -> Written:
        """Apply ``batch`` in one transaction.

        Raises:
            QuarterdeckError: The store is busy or damaged; nothing is changed.
        """
        origins = (topics.parse_up(message.topic) for message, _ in batch)
        named = {origin.device for origin in origins if origin is not None}
        with self._store.write() as records:
            so_far = _read(records, named)
            for message, now in batch:
                self._apply(so_far, message, now)
            _write(records, so_far)
        unborn = frozenset(so_far.unborn - so_far.born)
        return Written(
            unborn,
            frozenset(so_far.born),
            frozenset(so_far.contested),
            frozenset(so_far.duplicates),
            so_far.changed,
        )

    def _apply(self, so_far: _Batch, message: Message, now: datetime) -> None:
        origin = topics.parse_up(message.topic)
        if origin is None or origin.device not in so_far.devices:
            self._scold(message.topic, Code.NOT_FOUND, "nobody enrolled")
            return
        try:
            self._sort(so_far, origin, message, now)
        except RejectedError as error:
            self._scold(message.topic, error.code, error.detail)

    def _sort(
        self,
        so_far: _Batch,
        origin: topics.UpTopic,
        message: Message,
        now: datetime,
    ) -> None:
        device = origin.device
        before = so_far.presence.get(device)
        match origin.leaf:
            case topics.UP_STATE:
                state = SessionState.decode(message.payload)
                self._state(so_far, device, before, state, now)
            case topics.UP_REPORTED:
                reported = Reported.decode(message.payload)
                self._reported(so_far, device, before, reported, now)
                if before is not None and reported.boot == before.former_boot:
                    so_far.contested.add(device)
            case topics.UP_EVENT:
                event = StepEvent.decode(message.payload)
                so_far.events.append(DeviceEvent(device, event, now))
                so_far.changed = True
            case _:
                return
        if not message.retained and origin.leaf != topics.UP_STATE:
            so_far.seen[device] = now
            if before is None or not before.online:
                so_far.unborn.add(device)

    def _state(
        self,
        so_far: _Batch,
        device: str,
        before: Presence | None,
        state: SessionState,
        now: datetime,
    ) -> None:
        heard, presence = hear(device, before, state, now)
        if contested(before, state):
            so_far.contested.add(device)
        if heard is Heard.DUPLICATE:
            so_far.duplicates.add(device)
            known = before is not None and duplicate(before, now)
            _log.log(
                logging.DEBUG if known else logging.WARNING,
                "event=%s device=%s boots=%d,%d two agents use one identity",
                Code.DUPLICATE_IDENTITY,
                device,
                presence.boot,
                presence.former_boot,
            )
        if state.online and heard is not Heard.STALE:
            so_far.born.add(device)
        if presence != before:
            so_far.presence[device] = presence
            so_far.changed_presence.add(device)
            so_far.changed = True

    def _reported(
        self,
        so_far: _Batch,
        device: str,
        before: Presence | None,
        new: Reported,
        now: datetime,
    ) -> None:
        enrolled = so_far.devices[device]
        if (new.device, new.device_class) != (device, enrolled.device_class):
            raise RejectedError(
                Code.WRONG_CLASS if new.device == device else Code.WRONG_DEVICE,
                f"{device} says it is {new.device} of class {new.device_class}",
            )
        known = so_far.reports.get(device)
        last = known.reported if known else None
        session = before.boot if before else None
        if last is not None and not fresh(last.boot, last.step, session, new):
            return
        same = known is not None and last is not None and _same(last.update, new.update)
        settled = known.settled_at if known is not None and same else now
        so_far.reports[device] = Report(new, now, settled)
        so_far.changed_reports.add(device)
        so_far.changed = True

    def _scold(self, topic: str, code: Code, detail: str) -> None:
        level = logging.DEBUG if (topic, code) in self._scolded else logging.WARNING
        if len(self._scolded) < MAX_SCOLDED:
            self._scolded.add((topic, code))
        _log.log(
            level, "event=message_refused topic=%s code=%s %s", topic, code, detail
        )


def _read(records: Records, ids: set[str]) -> _Batch:
    return _Batch(
        records.devices.some(ids),
        records.presence.some(ids),
        records.reports.some(ids),
    )


def _write(records: Records, batch: _Batch) -> None:
    records.presence.put(batch.presence[it] for it in batch.changed_presence)
    records.reports.put(batch.reports[it] for it in batch.changed_reports)
    records.events.add(batch.events)
    records.presence.saw(batch.seen)


def _same(old: LastUpdate | None, new: LastUpdate | None) -> bool:
    def key(it: LastUpdate | None) -> tuple[object, ...]:
        return () if it is None else (it.sequence, it.digest, it.outcome, it.code)

    return key(old) == key(new)
