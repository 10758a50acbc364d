"""Sends the windows that wait, again until the controller has acknowledged them."""

import asyncio
import logging

from quarterdeck_agent.outbox import Entry, Outbox
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.patience import wait_at_most
from quarterdeck_shared.telemetry.window import Ack

IN_FLIGHT = 16
RESEND_S = 20.0
_LOOK_S = 1.0

log = logging.getLogger(__name__)


class Sender:
    """Empties the outbox over the bus, a few windows at a time."""

    def __init__(self, bus: Bus, device: str, outbox: Outbox, clock: Clock) -> None:
        self._bus = bus
        self._topic = topics.up(device, topics.UP_TELEMETRY)
        self._ack_topic = topics.down(device, topics.DOWN_ACK)
        self._outbox = outbox
        self._clock = clock
        self._sent_at: dict[tuple[int, int], float] = {}
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Look again now: a window was closed, or the session came up."""
        self._wanted.set()

    def resend(self) -> None:
        """Send again what was sent and not acknowledged: the session is a new one."""
        self._sent_at.clear()
        self.wake()

    async def run(self) -> None:
        """Send until cancelled."""
        await self._bus.subscribe(self._ack_topic, self._hear)
        while True:
            await self._send_due()
            self._wanted.clear()
            await wait_at_most(self._wanted, _LOOK_S)

    async def _send_due(self) -> None:
        now = self._clock.monotonic()
        for entry in self._outbox.waiting()[:IN_FLIGHT]:
            sent_at = self._sent_at.get((entry.boot, entry.sequence))
            if sent_at is not None and now - sent_at < RESEND_S:
                continue
            if not self._bus.connected or not await self._send(entry):
                return

    async def _send(self, entry: Entry) -> bool:
        window = self._outbox.take(entry)
        if window is None:
            return True
        try:
            await self._bus.publish(self._topic, window)
        except TransientError as error:
            log.debug("telemetry waits: %s", error)
            return False
        self._sent_at[entry.boot, entry.sequence] = self._clock.monotonic()
        return True

    def _hear(self, message: Message) -> None:
        try:
            ack = Ack.decode(message.payload)
        except RejectedError as error:
            log.warning("an acknowledgement was dropped: %s", error)
            return
        self._outbox.acknowledge(ack)
        for sequence in ack.sequences:
            self._sent_at.pop((ack.boot, sequence), None)
        self.wake()
