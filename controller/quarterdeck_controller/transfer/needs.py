"""Hear what devices need, and hand it to the publisher."""

import logging

from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.transfer import Need

log = logging.getLogger(__name__)


class NeedListener:
    """Parses the need messages of every device (PROTOCOL.md section 7)."""

    def __init__(self, bus: Bus, publisher: Publisher) -> None:
        self._bus = bus
        self._publisher = publisher

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
            log.warning("event=need_refused device=%s %s", origin.device, error)
