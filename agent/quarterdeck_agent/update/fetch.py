"""Fetches an artifact's chunks from their broadcast (PROTOCOL.md section 7).

What is on the disk is the only state: a fetch that was cancelled or killed begins
again with what its files hold. A chunk touches the disk after its digest was checked.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_agent.update.partial import PartialArtifact
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.index import Index
from quarterdeck_shared.patience import wait_at_most
from quarterdeck_shared.transfer import ChunkFrame, Need, to_bitmap

log = logging.getLogger(__name__)

STALL_S = 30.0
"""Past this without a chunk the update machine decides whether to try again."""

CREDIT_BYTES = 2 << 20
"""What may be on its way: enough for 16 MB/s at 100 ms, small beside any device."""

REPORT_S = 0.5
"""A device that receives reports this often, however slowly it receives."""

SETTLE_S = 0.1
"""What came is reported once nothing more came for this long."""

LONGEST_REPORT_S = 4.0
"""A device that receives nothing asks again at least this often."""

INVALID_RUN = 16
"""So many wrong chunks without a right one between are an attack or a wrong index."""

_GOODBYE_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is."""

    chunks: int
    chunks_missing: int
    received_bytes: int
    reused_bytes: int


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What a fetch took.

    Attributes:
        received_bytes: Bytes of chunks that came over the network and were missing.
        duplicate_bytes: Bytes of chunks that came though they were here already.
        reused_bytes: Bytes of chunks copied from elsewhere on the disk.
        invalid_chunks: Frames that were dropped because of wrong bytes.
    """

    received_bytes: int
    duplicate_bytes: int
    reused_bytes: int
    invalid_chunks: int = 0


class Fetcher:
    """Fetches artifacts for one device, one at a time or several."""

    def __init__(
        self,
        bus: Bus,
        device: str,
        device_class: str,
        clock: Clock,
        controller_boot: Callable[[], int],
        *,
        on_invalid: Callable[[RejectedError], None] = lambda _error: None,
    ) -> None:
        """Prepare.

        Args:
            bus: Carries chunks and needs.
            device: Who we are.
            device_class: Whose chunks we may read.
            clock: Measures waits.
            controller_boot: Returns the boot of the controller as last heard, 0 when
                unknown; it names the count of frames that ``seen`` refers to.
            on_invalid: Told of the first of a run of wrong chunks, which are dropped.
        """
        self._bus = bus
        self._device = device
        self._device_class = device_class
        self._clock = clock
        self._controller_boot = controller_boot
        self._on_invalid = on_invalid
        self._transfers: set[_Transfer] = set()
        bus.on_connected(self._ask_again)

    async def fetch(
        self,
        artifact: str,
        index: Index,
        folder: Path,
        *,
        reuse: Sequence[Path] = (),
        stall_s: float = STALL_S,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
    ) -> FetchResult:
        """Fill ``folder`` with the parts of ``artifact``; what is there is kept.

        Args:
            artifact: The artifact's digest, as on the wire.
            index: Its verified index.
            folder: Where the part files belong.
            reuse: Folders of other slots to copy equal chunks from.
            stall_s: Longest time without a valid chunk.
            on_progress: Called when something was found, copied or received.

        Raises:
            TransientError: ``FETCH_STALLED``, ``DISK_FULL`` or ``DISK_FAILED``.
            RejectedError: ``CHUNK_INVALID`` after a run of wrong chunks.
        """
        parts = PartialArtifact(index, folder)
        try:
            await _in_thread(lambda: parts.open(reuse))
            transfer = _Transfer(
                artifact, parts, index.chunk_bytes, self._clock, self._on_invalid
            )
            on_progress(transfer.progress())
            if parts.missing:
                await self._receive(transfer, stall_s, on_progress)
            await _in_thread(parts.sync)
        finally:
            parts.close()
        return transfer.result()

    async def _receive(
        self,
        transfer: "_Transfer",
        stall_s: float,
        on_progress: Callable[[Progress], None],
    ) -> None:
        topic = topics.chunks(self._device_class, transfer.artifact)
        await self._bus.subscribe(topic, transfer.hear, qos=0)
        self._transfers.add(transfer)
        reporting = asyncio.create_task(
            self._report_on(transfer), name=f"need[{transfer.artifact[:12]}]"
        )
        try:
            while transfer.parts.missing:
                frame = await transfer.next_frame(stall_s)
                transfer.take(frame, self._controller_boot())
                on_progress(transfer.progress())
        finally:
            self._transfers.discard(transfer)
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            await self._leave(transfer, topic)

    async def _report_on(self, transfer: "_Transfer") -> None:
        """Say what is missing when it is due, until cancelled."""
        while True:
            need = transfer.need(self._controller_boot())
            try:
                await self._say(need)
            except TransientError as error:
                log.debug("event=need_unsaid code=%s: %s", error.code, error.detail)
            await transfer.until_due()

    async def _say(self, need: Need) -> None:
        topic = topics.up(self._device, topics.UP_NEED)
        await self._bus.publish(topic, need.encode())

    async def _leave(self, transfer: "_Transfer", topic: str) -> None:
        """Tell the controller not to wait for us any more; nobody depends on it."""
        with contextlib.suppress(TimeoutError, QuarterdeckError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._say(transfer.goodbye(self._controller_boot()))
        with contextlib.suppress(TimeoutError, QuarterdeckError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._bus.unsubscribe(topic)

    def _ask_again(self) -> None:
        for transfer in self._transfers:
            transfer.due.set()


class _Transfer:
    """One fetch under way: what came, and what to say of it."""

    def __init__(
        self,
        artifact: str,
        parts: PartialArtifact,
        chunk_bytes: int,
        clock: Clock,
        on_invalid: Callable[[RejectedError], None],
    ) -> None:
        self._on_invalid = on_invalid
        self.artifact = artifact
        self.parts = parts
        self.due = asyncio.Event()
        self._clock = clock
        self._credit = max(4, CREDIT_BYTES // chunk_bytes)
        self._frames: asyncio.Queue[bytes] = asyncio.Queue(maxsize=2 * self._credit)
        self._stream = 0
        self._seen = 0
        self._said_seen = 0
        self._quiet_s = REPORT_S
        self._said_at = self._came_at = self._valid_at = clock.monotonic()
        self._invalid_run = 0
        self._received = 0
        self._duplicate = 0
        self._invalid = 0

    def hear(self, message: Message) -> None:
        """Queue a frame; one that finds no room counts as lost and is repaired."""
        with contextlib.suppress(asyncio.QueueFull):
            self._frames.put_nowait(message.payload)

    async def next_frame(self, stall_s: float) -> bytes:
        """Return the next frame.

        Raises:
            TransientError: ``FETCH_STALLED``.
        """
        left_s = self._valid_at + stall_s - self._clock.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await self._frames.get()
        except TimeoutError as error:
            missing = f"{len(self.parts.missing)} of {len(self.parts.chunks)} chunks"
            raise TransientError(
                Code.FETCH_STALLED, f"no chunk for {stall_s:g} s; {missing} missing"
            ) from error

    def take(self, payload: bytes, boot: int) -> None:
        """Verify a frame and keep its chunk when it was missing.

        Raises:
            RejectedError: ``CHUNK_INVALID`` after a run of wrong chunks.
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``.
        """
        try:
            frame = ChunkFrame.decode(payload)
            self._verify(frame)
        except RejectedError as error:
            self._count_invalid(error)
            return
        self._follow(frame.published, boot)
        self._came_at = self._clock.monotonic()
        if frame.number in self.parts.missing:
            self.parts.write(frame.number, frame.data)
            self._received += len(frame.data)
            self._valid_at = self._clock.monotonic()
            self._invalid_run = 0
        else:
            self._duplicate += len(frame.data)
        if self._seen - self._said_seen >= self._credit // 2:
            self.due.set()

    def need(self, boot: int) -> Need:
        """Return what to say now, and count it as said."""
        self._change_stream(boot)
        self._said_seen = self._seen
        self._said_at = self._clock.monotonic()
        chunks = self.parts.chunks
        return Need(
            artifact=self.artifact,
            missing=to_bitmap(self.parts.missing, len(chunks)),
            seen=self._seen,
            stream=self._stream,
            credit=self._credit,
        )

    def goodbye(self, boot: int) -> Need:
        """Return the need that asks for nothing more."""
        return self.need(boot).model_copy(update={"missing": b""})

    async def until_due(self) -> None:
        """Return when the next need is due: soon while frames come, else later."""
        while not (self.due.is_set() or self._is_due(self._clock.monotonic())):
            await wait_at_most(self.due, SETTLE_S)
        self.due.clear()
        quiet = self._seen == self._said_seen
        longer = min(self._quiet_s * 1.5, LONGEST_REPORT_S)
        self._quiet_s = longer if quiet else REPORT_S

    def progress(self) -> Progress:
        """Return how far it is."""
        return Progress(
            len(self.parts.chunks),
            len(self.parts.missing),
            self._received,
            self.parts.reused_bytes,
        )

    def result(self) -> FetchResult:
        """Return what it took."""
        return FetchResult(
            self._received, self._duplicate, self.parts.reused_bytes, self._invalid
        )

    def _is_due(self, now: float) -> bool:
        settled = self._seen > self._said_seen and now - self._came_at >= SETTLE_S
        return settled or now - self._said_at >= self._quiet_s

    def _verify(self, frame: ChunkFrame) -> None:
        """Check 6.11: the bytes are the chunk that the signed index lists."""
        if frame.number >= len(self.parts.chunks):
            raise RejectedError(Code.CHUNK_INVALID, f"there is no chunk {frame.number}")
        found = hashlib.sha256(frame.data).hexdigest()
        wanted = self.parts.chunks[frame.number].sha256
        if found != wanted:
            raise RejectedError(
                Code.CHUNK_INVALID,
                f"chunk {frame.number} has sha256 {found}, the index lists {wanted}",
            )

    def _count_invalid(self, error: RejectedError) -> None:
        self._invalid += 1
        self._invalid_run += 1
        if self._invalid_run == 1:
            self._on_invalid(error)
        log.log(
            logging.WARNING if self._invalid_run == 1 else logging.DEBUG,
            "event=chunk_invalid artifact=%s code=%s: %s",
            self.artifact,
            error.code,
            error.detail,
        )
        if self._invalid_run >= INVALID_RUN:
            raise RejectedError(
                Code.CHUNK_INVALID,
                f"{self._invalid_run} wrong chunks in a row; the last: {error.detail}",
            )

    def _follow(self, published: int, boot: int) -> None:
        self._change_stream(boot)
        if self._seen < published < 1 << 53:
            self._seen = published

    def _change_stream(self, boot: int) -> None:
        """Count anew when another controller counts."""
        if boot != self._stream:
            self._stream = boot
            self._seen = self._said_seen = 0


async def _in_thread(work: Callable[[], None]) -> None:
    """Run ``work`` in a thread and see it end, even when we are cancelled.

    It holds open files that must not be closed under it.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
