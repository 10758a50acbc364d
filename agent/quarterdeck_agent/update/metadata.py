"""Files of the signed repository, asked for over the bus (PROTOCOL.md section 5).

python-tuf asks from a worker thread; requests are published on the event loop, and the
pieces of a reply pass from the loop to the thread through a queue with a bound. Nothing
here is trusted: the rules below only bound what a hostile broker can cost.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import secrets
from collections.abc import Iterator

from tuf.api.exceptions import (
    DownloadHTTPError,
    DownloadLengthMismatchError,
    SlowRetrievalError,
)
from tuf.ngclient.fetcher import FetcherInterface

from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.metadata import PIECE_BYTES, MetadataReply, MetadataRequest
from quarterdeck_shared.signed_time import time_name
from quarterdeck_shared.topics import DOWN_METADATA, UP_METADATA, down, up

_log = logging.getLogger(__name__)

_ATTEMPTS = 3
_FILE_S = 60.0
"""A whole file must be here by then, however steadily it drips."""
_WAITING_PIECES = 64
_NOT_FOUND = 404
_TIME = time_name("")


class MetadataFetcher(FetcherInterface):
    """Brings files over ``bus``, one at a time.

    Call ``start`` on the loop before the first fetch.

    Args:
        timeout_s: How long one piece may take before the file is asked for again.
    """

    def __init__(
        self,
        bus: Bus,
        device: str,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float = 5.0,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._device = device
        self._loop = loop
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._asked: _Asked | None = None
        self._noted = False
        self._closed = False

    async def start(self) -> None:
        """Hear the replies."""
        await self._bus.subscribe(down(self._device, DOWN_METADATA), self.hear)

    def close(self) -> None:
        """Let go of the thread that waits, so that the agent can stop at once."""
        self._closed = True
        asked = self._asked
        if asked is not None:
            with contextlib.suppress(queue.Full):
                asked.pieces.put_nowait(None)

    def hear(self, message: Message) -> None:
        """Hand a reply to whoever waits for it; drop what nobody asked for."""
        try:
            reply = MetadataReply.decode(message.payload)
        except RejectedError as error:
            self._note(f"a metadata reply was dropped: {error}")
            return
        asked = self._asked
        if asked is None or asked.id != reply.id:
            _log.debug("a metadata reply that was not asked for was dropped")
            return
        try:
            asked.pieces.put_nowait(reply)
        except queue.Full:
            self._asked = None
            self._note("a metadata reply came in more pieces than a file may have")

    def _note(self, what: str) -> None:
        # A hostile broker may not fill the log: the first is told, the rest whispered.
        _log.log(logging.DEBUG if self._noted else logging.WARNING, what)
        self._noted = True

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._file(url.removeprefix("/"))

    def _file(self, name: str) -> Iterator[bytes]:
        """Yield the pieces of ``name``; after a loss ask again, and go on from there.

        Raises:
            DownloadHTTPError: 404: there is no such file.
            DownloadLengthMismatchError: Pieces came of a size that none may have.
            SlowRetrievalError: The pieces did not come in time.
            TransientError: ``NOT_CONNECTED`` or ``TIMED_OUT``.
        """
        deadline = self._clock.monotonic() + _FILE_S
        done = 0
        # The time is worth nothing when it comes late, and none is no error.
        attempts = 1 if name.startswith(_TIME) else _ATTEMPTS
        for _ in range(attempts):
            for reply in self._answer(name, deadline):
                if not reply.found:
                    raise DownloadHTTPError(f"there is no {name}", _NOT_FOUND)
                if reply.piece == done:
                    done += 1
                    yield reply.data
                if reply.last:
                    return
            if self._closed:
                raise TransientError(Code.NOT_CONNECTED, "the agent is stopping")
            if self._clock.monotonic() >= deadline:
                break
        raise SlowRetrievalError(f"{name}: no answer in time, {done} pieces came")

    def _answer(self, name: str, deadline: float) -> Iterator[MetadataReply]:
        """Yield the pieces of one answer in order; end early when one is missing."""
        request = MetadataRequest(id=secrets.randbits(63), name=name)
        asked = self._asked = _Asked(request.id)
        self._ask(request)
        expected = 0
        while (reply := self._next(asked, deadline)) is not None:
            if reply.piece < expected:
                continue  # delivered twice
            if reply.piece > expected:
                return  # one was lost
            _check_size(reply, name)
            expected += 1
            yield reply

    def _next(self, asked: "_Asked", deadline: float) -> MetadataReply | None:
        left = deadline - self._clock.monotonic()
        try:
            return asked.pieces.get(timeout=max(0.0, min(self._timeout_s, left)))
        except queue.Empty:
            return None

    def _ask(self, request: MetadataRequest) -> None:
        topic = up(self._device, UP_METADATA)
        publishing = asyncio.run_coroutine_threadsafe(
            self._bus.publish(topic, request.encode()), self._loop
        )
        try:
            publishing.result(self._timeout_s)
        except concurrent.futures.TimeoutError as error:
            publishing.cancel()
            raise TransientError(
                Code.TIMED_OUT, f"asking for {request.name} took {self._timeout_s} s"
            ) from error


class _Asked:
    """The request that is under way, and its pieces; the next one replaces it."""

    def __init__(self, request: int) -> None:
        self.id = request
        self.pieces: queue.Queue[MetadataReply | None] = queue.Queue(_WAITING_PIECES)


def _check_size(reply: MetadataReply, name: str) -> None:
    # Only the last piece may be short: otherwise a file could drip in byte by byte.
    if reply.found and not reply.last and len(reply.data) != PIECE_BYTES:
        raise DownloadLengthMismatchError(
            f"{name}: piece {reply.piece} of {len(reply.data)} bytes is not the last"
        )
