"""Hear what devices need, and hand it to the publisher."""

import logging

from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.transfer import Need

MAX_SCOLDED = 20_000

log = logging.getLogger(__name__)


class NeedListener:
    """Parses the need messages of every device (PROTOCOL.md section 7)."""

    def __init__(self, bus: Bus, publisher: Publisher) -> None:
        self._bus = bus
        self._publisher = publisher
        self._scolded: set[str] = set()

    async def subscribe(self) -> None:
        """Hear needs from now on."""
        await self._bus.subscribe(topics.up_any(topics.UP_NEED), self.hear)

    def hear(self, message: Message) -> None:
        """Take in one message; a malformed one is logged and dropped."""
        origin = topics.parse_up(message.topic)
        if origin is None:
            return
        try:
            self._publisher.hear(origin.device, Need.decode(message.payload))
        except RejectedError as error:
            self._scold(origin.device, error)

    def _scold(self, device: str, error: RejectedError) -> None:
        # A device may not fill the log: the first is told, the rest whispered.
        first = device not in self._scolded and len(self._scolded) < MAX_SCOLDED
        if first:
            self._scolded.add(device)
        level = logging.WARNING if first else logging.DEBUG
        log.log(level, "event=need_refused device=%s %s", device, error)
