"""Publishes chunks to the devices that want them, several artifacts in turns."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from quarterdeck_controller.transfer.budget import Budget
from quarterdeck_controller.transfer.carousel import Carousel, Want
from quarterdeck_shared.bus.port import Bus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError
from quarterdeck_shared.patience import wait_at_most
from quarterdeck_shared.transfer import ChunkFrame, Need

log = logging.getLogger(__name__)

TURN_FRAMES = 8
"""Frames of one artifact before the next has its turn: half a MiB."""

_REFUSED_S = 0.02
"""Wait when the bus took no frame: it is backed up."""

_DISCONNECTED_S = 0.2

_UNREADABLE_S = 5.0
_UNKNOWN_REMEMBERED = 1000


@dataclass(slots=True)
class Sent:
    """What was published since the start."""

    frames: int = 0
    bytes: int = 0


class Publisher:
    """Serves every artifact that ``chunk_topic`` knows.

    Attributes:
        sent: What was published since the start, for reports.
    """

    def __init__(
        self,
        bus: Bus,
        read_chunk: Callable[[str, int], bytes | None],
        chunk_topic: Callable[[str], str | None],
        *,
        stream: int,
        clock: Clock,
        bytes_per_s: int = 0,
        may_read: Callable[[str, str], bool] = lambda _device, _artifact: True,
    ) -> None:
        """Prepare; nothing is published before ``run``.

        Args:
            bus: Carries the frames; somebody else hears the needs.
            read_chunk: Returns a chunk of an artifact, or None where there is none;
                called in a thread.
            chunk_topic: Returns the topic of an artifact, or None for an unknown one.
            stream: The boot of this controller.
            clock: Measures waits.
            bytes_per_s: Most bytes published a second; 0 is no limit.
            may_read: Whether a device may have an artifact; others are not heard.
        """
        self.sent = Sent()
        self._bus = bus
        self._read_chunk = read_chunk
        self._chunk_topic = chunk_topic
        self._stream = stream
        self._clock = clock
        self._budget = Budget(bytes_per_s)
        self._may_read = may_read
        self._carousels: dict[str, Carousel] = {}
        self._refused: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()

    def hear(self, device: str, need: Need) -> None:
        """Take in what a device needs."""
        topic = self._chunk_topic(need.artifact)
        if topic is None or not self._may_read(device, need.artifact):
            self._refuse(device, need.artifact, known=topic is not None)
            return
        missing = int.from_bytes(need.missing, "little")
        want = Want(missing, need.seen, need.stream, need.credit)
        carousel = self._carousels.setdefault(need.artifact, Carousel(self._stream))
        carousel.hear(device, want, self._clock.monotonic())
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._wake.clear()
            waits = [
                await self._try_turn(artifact, carousel)
                for artifact, carousel in tuple(self._carousels.items())
            ]
            waiting = [wait_s for wait_s in waits if wait_s is not None]
            await self._sleep(min(waiting, default=None))

    async def _try_turn(self, artifact: str, carousel: Carousel) -> float | None:
        """Take a turn; chunks that cannot be read must not stop other artifacts."""
        try:
            return await self._take_turn(artifact, carousel)
        except (OSError, QuarterdeckError) as error:
            log.warning("event=chunk_unreadable artifact=%s: %s", artifact, error)
            return _UNREADABLE_S

    async def _take_turn(self, artifact: str, carousel: Carousel) -> float | None:
        """Publish what is due of one artifact, and return when to look again."""
        if not self._bus.connected:
            return _DISCONNECTED_S
        plan = carousel.plan(self._clock.monotonic(), TURN_FRAMES)
        topic = self._chunk_topic(artifact)
        if topic is None or not plan.numbers:
            return plan.wait_s
        chunks = await asyncio.to_thread(self._read, artifact, plan.numbers)
        for number, chunk in zip(plan.numbers, chunks, strict=True):
            if chunk is None:
                carousel.absent(number, self._clock.monotonic())
                continue
            wait_s = self._budget.wait_s(self._clock.monotonic())
            if wait_s > 0:
                return wait_s
            if not self._send(topic, carousel, number, chunk):
                return _REFUSED_S
        return 0.0

    def _send(self, topic: str, carousel: Carousel, number: int, chunk: bytes) -> bool:
        frame = ChunkFrame(number, carousel.published + 1, chunk).encode()
        if not self._bus.publish_fast(topic, frame):
            return False
        carousel.sent(number, self._clock.monotonic())
        self._budget.spend(len(frame))
        self.sent.frames += 1
        self.sent.bytes += len(chunk)
        return True

    def _read(self, artifact: str, numbers: tuple[int, ...]) -> list[bytes | None]:
        return [self._read_chunk(artifact, number) for number in numbers]

    async def _sleep(self, wait_s: float | None) -> None:
        """Wait for the next report, ``wait_s`` at most; always yield once."""
        if wait_s == 0:
            await asyncio.sleep(0)
            return
        await wait_at_most(self._wake, wait_s)

    def _refuse(self, device: str, artifact: str, *, known: bool) -> None:
        """Log once that a device asked for what it cannot have."""
        if (device, artifact) in self._refused:
            return
        if len(self._refused) < _UNKNOWN_REMEMBERED:
            self._refused.add((device, artifact))
            log.warning(
                "event=need_refused device=%s artifact=%s: %s",
                device,
                artifact,
                "it is of another class" if known else "there is no such artifact",
            )
