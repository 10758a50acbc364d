"""Sign what each device must run, keep it, and see that the broker has it.

An assignment is stored in the transaction that decided it and published afterwards;
whatever the broker has not acknowledged since is published again, after a crash too.
Nothing is ever published that is not stored. When the session comes up everything
current is published again, because a broker may have forgotten it.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from quarterdeck_controller.store.records import Assigned, Runs
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import MAX_SEQUENCE, Assignment, Probation
from quarterdeck_shared.bus.port import Bus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError, TransientError
from quarterdeck_shared.patience import wait_at_most

BATCH = 200
"""Assignments published before the store is told."""

RENEWED_AT_ONCE = 500
"""Assignments signed anew in one transaction; others may write between two."""

CONCURRENT = 50
RENEW_EVERY_S = 60.0
RETRY_S = 1.0
MAX_REASON = 200

FOLLOWED = MAX_SEQUENCE // 2
"""The highest sequence that is counted on from because a device reports it: whatever it
claims, no lack of numbers ever keeps the director from signing for all the others."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What one device shall run, before it is numbered and signed."""

    device: str
    device_class: str
    runs: Runs
    reason: str
    probation: Probation
    rollout: int | None = None


def _unsealed(_device: str, _artifact: str, _seal_key: bytes | None) -> None:
    """Give no content key: nothing is sealed."""


class Assignments:
    """The director's hand: numbers, signs, stores and publishes."""

    def __init__(
        self,
        store: Store,
        bus: Bus | None,
        sign: Callable[[Assignment], bytes],
        clock: Clock,
        *,
        lifetime: timedelta,
        signed_by: Callable[[], Collection[str]] = tuple,
        content_key: Callable[[str, str, bytes | None], bytes | None] = _unsealed,
    ) -> None:
        """Take the parts.

        Args:
            store: Where assignments are kept.
            bus: The session; None for a process that only signs.
            sign: Returns the DSSE envelope of an assignment.
            clock: Issues and expires.
            lifetime: How long an assignment may be acted on; it is signed anew when
                two thirds of that are over.
            signed_by: Returns the ids of the keys that ``sign`` signs with now; what
                others have signed is signed anew.
            content_key: See ``sealing.ContentKeys.wrap``.
        """
        self._store = store
        self._bus = bus
        self._sign = sign
        self._clock = clock
        self._lifetime = lifetime
        self._signed_by = signed_by
        self._content_key = content_key
        self._wake = asyncio.Event()
        self._forgotten = True
        if bus is not None:
            bus.on_connected(self._connected)

    def sign(
        self, records: Records, wishes: Sequence[Wish], now: datetime
    ) -> tuple[Assigned, ...]:
        """Number, sign and store ``wishes`` within the caller's transaction.

        A device may have accepted a higher number than is stored here, when this store
        is an older backup or the director's key was misused: it is counted on from, up
        to ``FOLLOWED``. What a device reports is its word alone; a device counts anew
        once the director's key was replaced.
        """
        devices = {wish.device for wish in wishes}
        known = records.devices.some(devices)
        ours = records.assignments.sequences(devices)
        theirs = records.reports.sequences(devices)
        assigned = tuple(
            self._signed(
                wish,
                _next(ours.get(wish.device, 0), theirs.get(wish.device, 0)),
                now,
                known[wish.device].seal_key if wish.device in known else None,
            )
            for wish in wishes
        )
        records.assignments.add(assigned)
        return assigned

    def wake(self) -> None:
        """Have ``run`` look for unpublished assignments now."""
        self._wake.set()

    async def publish(self) -> int:
        """Publish what the broker has not acknowledged; return how many it took.

        What it does not take stays to be published.
        """
        if self._forgotten:
            self._forgotten = False
            await asyncio.to_thread(self._forget)
        count = 0
        while batch := await asyncio.to_thread(self._unpublished):
            done = await self._publish(batch)
            await asyncio.to_thread(self._mark, done)
            count += len(done)
            if len(done) < len(batch):
                break
        return count

    async def renew(self) -> int:
        """Sign anew what expires soon or was signed by keys that were replaced.

        Return how many that were, however many.
        """
        count = 0
        while renewed := await asyncio.to_thread(self._renew):
            count += renewed
        if count:
            _log.info("event=assignments_renewed count=%d", count)
            self._wake.set()
        return count

    async def run(self) -> None:
        """Publish and renew until cancelled."""
        renew_at = 0.0
        while True:
            self._wake.clear()
            try:
                if self._clock.monotonic() >= renew_at:
                    await self.renew()
                    renew_at = self._clock.monotonic() + RENEW_EVERY_S
                await self._publish_if_connected()
            except QuarterdeckError as error:
                _log.warning("event=assignments_held code=%s %s", error.code, error)
            await wait_at_most(self._wake, RETRY_S)

    async def _publish_if_connected(self) -> None:
        if self._bus is not None and self._bus.connected:
            count = await self.publish()
            if count:
                _log.info("event=assignments_published count=%d", count)

    def _connected(self) -> None:
        self._forgotten = True
        self._wake.set()

    def _signed(
        self, wish: Wish, sequence: int, now: datetime, seal_key: bytes | None
    ) -> Assigned:
        keys = self._keys()  # first: replaced in between, it is signed once more
        statement = Assignment(
            device=wish.device,
            device_class=wish.device_class,
            sequence=sequence,
            issued=now,
            expires=now + self._lifetime,
            release=wish.runs.release,
            target=wish.runs.target,
            probation=wish.probation,
            reason=wish.reason[:MAX_REASON],
            content_key=self._content_key(
                wish.device, wish.runs.target.sha256, seal_key
            ),
        )
        return Assigned(
            device=wish.device,
            device_class=wish.device_class,
            sequence=statement.sequence,
            runs=wish.runs,
            issued=statement.issued,
            expires=statement.expires,
            envelope=self._sign(statement),
            reason=statement.reason,
            probation=wish.probation,
            rollout=wish.rollout,
            signed_by=keys,
        )

    def _keys(self) -> str:
        return " ".join(sorted(self._signed_by()))

    def _forget(self) -> None:
        with self._store.write() as records:
            records.assignments.mark_all_unpublished()

    def _unpublished(self) -> tuple[Assigned, ...]:
        with self._store.read() as records:
            return records.assignments.unpublished(BATCH)

    def _mark(self, done: Sequence[Assigned]) -> None:
        if done:
            with self._store.write() as records:
                records.assignments.mark_published(done)

    def _renew(self) -> int:
        now = self._clock.now()
        with self._store.write() as records:
            soon = records.assignments.due(
                now + self._lifetime / 3, self._keys(), RENEWED_AT_ONCE
            )
            wishes = [
                Wish(
                    it.device,
                    it.device_class,
                    it.runs,
                    it.reason,
                    it.probation,
                    it.rollout,
                )
                for it in soon
            ]
            self.sign(records, wishes, now)
        return len(soon)

    async def _publish(self, batch: Sequence[Assigned]) -> list[Assigned]:
        room = asyncio.Semaphore(CONCURRENT)
        outcomes = await asyncio.gather(*(self._publish_one(it, room) for it in batch))
        return [it for it, done in zip(batch, outcomes, strict=True) if done]

    async def _publish_one(self, it: Assigned, room: asyncio.Semaphore) -> bool:
        assert self._bus is not None
        topic = topics.down(it.device, topics.DOWN_ASSIGNMENT)
        async with room:
            try:
                # An empty retained message takes the one before out of the broker.
                payload = b"" if it.withdrawn else it.envelope
                await self._bus.publish(topic, payload, retain=True)
            except TransientError:
                return False  # it stays unpublished and is tried again
            return True


def _next(ours: int, theirs: int) -> int:
    return (theirs if ours < theirs <= FOLLOWED else ours) + 1
