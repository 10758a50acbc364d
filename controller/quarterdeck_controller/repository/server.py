"""Answer devices that ask for files of the repository (PROTOCOL.md section 5)."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator

from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from quarterdeck_shared.metadata import PIECE_BYTES, MetadataReply, MetadataRequest
from quarterdeck_shared.topics import (
    DOWN_METADATA,
    UP_METADATA,
    down,
    parse_up,
    up_any,
)

_log = logging.getLogger(__name__)

_WAITING = 4096
_WAITING_PER_DEVICE = 16
_WORKERS = 4
_NOTED = 20_000

Read = Callable[[str], bytes | None]


class MetadataServer:
    """Answers requests in the order they came.

    The queue is bounded, and each device's share of it: what does not fit is dropped
    with a line in the log, and the device asks again.
    """

    def __init__(self, bus: Bus, read: Read) -> None:
        self._bus = bus
        self._read = read
        self._queue: asyncio.Queue[tuple[str, MetadataRequest]] = asyncio.Queue(
            _WAITING
        )
        self._of_device: Counter[str] = Counter()
        self._noted: set[str] = set()

    async def run(self) -> None:
        """Hear requests and answer them until cancelled."""
        await self._bus.subscribe(up_any(UP_METADATA), self.hear)
        async with asyncio.TaskGroup() as workers:
            for number in range(_WORKERS):
                workers.create_task(self._work(), name=f"metadata-{number}")

    def hear(self, message: Message) -> None:
        """Queue a device's request."""
        source = parse_up(message.topic)
        if source is None:
            return
        try:
            request = MetadataRequest.decode(message.payload)
        except RejectedError as error:
            self._note(source.device, f"a request was refused: {error}")
            return
        crowded = self._of_device[source.device] >= _WAITING_PER_DEVICE
        if crowded or self._queue.full():
            self._note(source.device, f"too many requests: {request.name} was dropped")
            return
        self._of_device[source.device] += 1
        self._queue.put_nowait((source.device, request))

    def _note(self, device: str, what: str) -> None:
        # A device may not fill the log: the first is told, the rest whispered.
        first = device not in self._noted and len(self._noted) < _NOTED
        if first:
            self._noted.add(device)
        _log.log(logging.WARNING if first else logging.DEBUG, "%s: %s", device, what)

    async def _work(self) -> None:
        while True:
            device, request = await self._queue.get()
            self._of_device[device] -= 1
            if not self._of_device[device]:
                del self._of_device[device]
            try:
                await self._answer(device, request)
            except (QuarterdeckError, OSError) as error:
                _log.warning("no answer to %s for %s: %s", device, request.name, error)

    async def _answer(self, device: str, request: MetadataRequest) -> None:
        topic = down(device, DOWN_METADATA)
        for reply in replies(request.id, self._read(request.name)):
            await self._bus.publish(topic, reply.encode())


def replies(request: int, data: bytes | None) -> Iterator[MetadataReply]:
    """Yield the pieces that answer a request with ``data``, or say there is none."""
    if data is None:
        yield MetadataReply(request, found=False, piece=0, last=True, data=b"")
        return
    count = max(1, -(-len(data) // PIECE_BYTES))
    for piece in range(count):
        part = data[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES]
        last = piece == count - 1
        yield MetadataReply(request, found=True, piece=piece, last=last, data=part)
