"""Take telemetry windows in: decode, store in batches, acknowledge what is stored.

The queue is bounded; when it is full a window is dropped, which costs nothing: the
device keeps it until it is acknowledged and sends it again. An acknowledgement leaves
only after the commit. A window that was stored before is acknowledged again.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from quarterdeck_controller.store.records import StoredWindow
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.telemetry.window import Ack, Window

QUEUE = 50_000
BATCH = 1000
CONCURRENT = 50
GATHER_S = 0.05
"""How long a batch waits for company, so that a sync to disk serves many windows."""

KEEP = timedelta(days=30)
FORGET_EVERY_S = 3600.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What was taken in since the start."""

    stored: int = 0
    repeated: int = 0
    malformed: int = 0
    unknown: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """What a batch led to.

    Attributes:
        acks: Sequences that are stored, by device and boot.
        stored: How many of them were new.
    """

    acks: Mapping[tuple[str, int], tuple[int, ...]]
    stored: int


class Ingest:
    """Hears the telemetry of every device."""

    def __init__(self, bus: Bus, store: Store, clock: Clock) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE)
        self._scolded: set[str] = set()
        self.counts = Counts()
        """What was taken in since the start."""

    async def run(self) -> None:
        """Subscribe, then take in until cancelled."""
        await self._bus.subscribe(topics.up_any(topics.UP_TELEMETRY), self._hear)
        forget_at = self._clock.monotonic() + FORGET_EVERY_S
        while True:
            batch = await self._gather()
            await self._take(batch)
            if self._clock.monotonic() >= forget_at:
                await asyncio.to_thread(self._forget)
                forget_at = self._clock.monotonic() + FORGET_EVERY_S

    def take(self, batch: Sequence[Message]) -> Taken:
        """Store the windows of ``batch`` in one transaction.

        Raises:
            QuarterdeckError: The store is busy or damaged; nothing is stored.
        """
        decoded = [it for message in batch if (it := self._decode(message))]
        with self._store.write() as records:
            known = records.devices.some({it.device for it, _ in decoded}).keys()
            kept = [it for it in decoded if it[0].device in known]
            stored = records.windows.add(kept)
            now = self._clock.now()
            records.presence.saw({it.device: now for it, _ in kept})
        self._count(decoded, kept, stored, known)
        acks: dict[tuple[str, int], list[int]] = defaultdict(list)
        for item, _ in kept:
            acks[item.device, item.window.boot].append(item.window.sequence)
        return Taken({key: tuple(value) for key, value in acks.items()}, stored)

    def _hear(self, message: Message) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.counts.dropped += 1

    async def _gather(self) -> list[Message]:
        batch = [await self._queue.get()]
        await asyncio.sleep(GATHER_S)
        while not self._queue.empty() and len(batch) < BATCH:
            batch.append(self._queue.get_nowait())
        return batch

    async def _take(self, batch: Sequence[Message]) -> None:
        try:
            taken = await asyncio.to_thread(self.take, batch)
        except TransientError as error:
            _log.warning("event=ingest_held code=%s %s", error.code, error)
            return
        room = asyncio.Semaphore(CONCURRENT)
        await asyncio.gather(
            *(
                self._acknowledge(room, device, Ack(boot=boot, sequences=sequences))
                for (device, boot), sequences in taken.acks.items()
            )
        )

    async def _acknowledge(
        self, room: asyncio.Semaphore, device: str, ack: Ack
    ) -> None:
        topic = topics.down(device, topics.DOWN_ACK)
        async with room:
            try:
                await self._bus.publish(topic, ack.encode())
            except QuarterdeckError as error:
                # The device sends the windows again and is acknowledged then.
                _log.debug("event=ack_lost device=%s code=%s", device, error.code)

    def _decode(self, message: Message) -> tuple[StoredWindow, bytes] | None:
        origin = topics.parse_up(message.topic)
        if origin is None:
            return None
        try:
            window = Window.decode(message.payload)
        except RejectedError as error:
            self.counts.malformed += 1
            self._scold(origin.device, error.code, error.detail)
            return None
        return StoredWindow(origin.device, window), message.payload

    def _count(
        self,
        decoded: Sequence[tuple[StoredWindow, bytes]],
        kept: Sequence[object],
        stored: int,
        known: Collection[str],
    ) -> None:
        self.counts.stored += stored
        self.counts.repeated += len(kept) - stored
        self.counts.unknown += len(decoded) - len(kept)
        for device in {it.device for it, _ in decoded}.difference(known):
            self._scold(device, Code.NOT_FOUND, "nobody enrolled it")

    def _scold(self, device: str, code: Code, detail: str) -> None:
        first = device not in self._scolded
        if len(self._scolded) < QUEUE:
            self._scolded.add(device)
        level = logging.WARNING if first else logging.DEBUG
        _log.log(
            level, "event=window_refused device=%s code=%s %s", device, code, detail
        )

    def _forget(self) -> None:
        with self._store.write() as records:
            gone = records.windows.forget(self._clock.now() - KEEP)
            records.events.forget(self._clock.now() - KEEP)
            records.refusals.forget(self._clock.now() - KEEP)
        _log.info("event=windows_forgotten count=%d", gone)
