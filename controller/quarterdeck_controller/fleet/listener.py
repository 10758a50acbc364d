"""Hear the devices: births and wills, reported states, events.

Handlers put messages into one bounded queue; when it is full the newest is dropped
and its device is asked to say its state again, so nothing is lost that matters. The
queue is written to the store in batches, in a thread. A device that speaks without
a known birth is asked for one, and after the controller's own session comes up every
device that the store believes online has to show that it is. A device that came with
another boot while the one before is believed there is asked as well, and as long as
two answer: they are two agents with one identity.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from quarterdeck_controller.fleet.presence import hear
from quarterdeck_controller.fleet.writer import Writer, Written
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError, TransientError
from quarterdeck_shared.reported import SessionState

QUEUE = 20_000
BATCH = 500
REBIRTH_EVERY_S = 30.0
"""A device is asked for its birth at most once in this time."""

RIVALS_EVERY_S = 5.0
DUPLICATES_EVERY_S = 60.0
RIVALS_AT_ONCE = 500
"""Contested devices asked at a time: after a power cut the whole fleet is."""

_LEAVES = (topics.UP_STATE, topics.UP_REPORTED, topics.UP_EVENT)
_log = logging.getLogger(__name__)


class Listener:
    """Hears state, reported and event of every device."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        clock: Clock,
        *,
        on_change: Callable[[], None] = lambda: None,
        answer_s: float = 10.0,
        rivals_s: float = RIVALS_EVERY_S,
    ) -> None:
        """Take the parts.

        Args:
            bus: The controller's session.
            store: Where it is written.
            clock: When it was heard.
            on_change: Called on the loop after something a plan depends on changed.
            answer_s: How long a device believed online may take to say so after our
                session came up, and again after it was asked.
            rivals_s: How often devices with two boots are asked to show themselves.
        """
        self._bus = bus
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._answer_s = answer_s
        self._rivals_s = rivals_s
        self._queue: asyncio.Queue[tuple[Message, datetime]] = asyncio.Queue(QUEUE)
        self._asked: dict[str, float] = {}
        self._overheard: set[str] = set()
        self._contested: dict[str, float] = {}
        self._silent: set[str] | None = None
        self._came_up = asyncio.Event()
        self._writer = Writer(store)
        self.dropped = 0
        """Messages that found the queue full."""

    async def run(self) -> None:
        """Subscribe, then hear and write until cancelled."""
        self._bus.on_connected(self._came_up.set)
        if self._bus.connected:
            self._came_up.set()
        for name in _LEAVES:
            await self._bus.subscribe(topics.up_any(name), self._hear)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(), name="listener-write")
            group.create_task(self._verify(), name="listener-verify")
            group.create_task(self._tell_apart(), name="listener-tell-apart")

    def _hear(self, message: Message) -> None:
        try:
            self._queue.put_nowait((message, self._clock.now()))
        except asyncio.QueueFull:
            self.dropped += 1
            origin = topics.parse_up(message.topic)
            if origin is not None:
                self._overheard.add(origin.device)

    async def _write(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty() and len(batch) < BATCH:
                batch.append(self._queue.get_nowait())
            try:
                written = await asyncio.to_thread(self._writer.write, batch)
            except TransientError as error:
                _log.warning("event=listener_held code=%s %s", error.code, error)
                self._overheard.update(_devices(batch))
                continue
            if self._silent is not None:
                self._silent -= written.born
            self._contest(written)
            unborn, self._overheard = written.unborn | self._overheard, set()
            await self._ask(unborn)
            if written.changed:
                self._on_change()

    async def _ask(self, devices: Iterable[str]) -> None:
        now = self._clock.monotonic()
        for device in tuple(devices):  # answers arrive while we ask
            if now < self._asked.get(device, now):
                continue
            self._asked[device] = now + REBIRTH_EVERY_S
            try:
                await self._bus.publish(topics.down(device, topics.DOWN_REBIRTH), b"")
            except QuarterdeckError:
                self._asked.pop(device)  # it speaks again, and is asked again

    def _contest(self, written: Written) -> None:
        now = self._clock.monotonic()
        for device in written.contested:
            self._contested.setdefault(device, now)
        for device in written.duplicates:  # they are known: this only renews it
            self._contested[device] = now + DUPLICATES_EVERY_S

    async def _tell_apart(self) -> None:
        while True:
            await asyncio.sleep(self._rivals_s)
            now = self._clock.monotonic()
            due = [device for device, at in self._contested.items() if at <= now]
            for device in due[:RIVALS_AT_ONCE]:
                try:
                    topic = topics.down(device, topics.DOWN_REBIRTH)
                    await self._bus.publish(topic, b"")
                except QuarterdeckError:
                    break  # asked when there is a session again
                self._contested.pop(device, None)

    async def _verify(self) -> None:
        while True:
            await self._came_up.wait()
            self._came_up.clear()
            self._silent = set(await asyncio.to_thread(self._believed_online))
            await asyncio.sleep(self._answer_s)
            await self._ask(self._silent)
            await asyncio.sleep(self._answer_s)
            lost, self._silent = self._silent, None
            if lost and self._bus.connected and not self._came_up.is_set():
                await asyncio.to_thread(self._write_lost, lost)
                _log.info("event=devices_silent count=%d", len(lost))
                self._on_change()

    def _believed_online(self) -> list[str]:
        with self._store.read() as records:
            everyone = records.presence.all().values()
            return [it.device for it in everyone if it.online]

    def _write_lost(self, lost: Iterable[str]) -> None:
        now = self._clock.now()
        with self._store.write() as records:
            for device in lost:
                it = records.presence.get(device)
                if it is not None and it.online:
                    gone = SessionState(
                        online=False, boot=it.boot, connection=it.connection
                    )
                    records.presence.put([hear(device, it, gone, now)[1]])


def _devices(batch: Iterable[tuple[Message, datetime]]) -> set[str]:
    origins = (topics.parse_up(message.topic) for message, _ in batch)
    return {origin.device for origin in origins if origin is not None}
