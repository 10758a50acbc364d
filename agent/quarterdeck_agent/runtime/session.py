"""The agent's handle on one worker: start, ask, watch, end.

Every wait has a deadline. A worker that misses one, or grows past its memory, is
killed; one that died is noticed with the signal that ended it. A session is never
used again after that: whoever owns it starts another.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import BinaryIO

from quarterdeck_agent.evidence import Answer, GoldenReport, Loaded
from quarterdeck_agent.runtime.frames import HEAD, Ask, Tell, lengths, pack
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.index import Golden, Index

START_S = 90.0
GOLDEN_S = 300.0
GOLDEN_LEAST_S, GOLDEN_ROOM = 10.0, 20.0
"""A replay may take this long, and so many times what the signed latency allows: a
model that needs more is refused anyway, and must not hold a processor until then."""
END_S = 3.0
_STDERR_BYTES = 2000


class WorkerEndedError(TransientError):
    """The worker crashed, hung, or grew past its memory; the code says which."""


class Session:
    """One loaded model in one worker. Answers one request at a time.

    Attributes:
        digest: The artifact that answers.
        index: Its signed index.
        loaded: What the worker said after loading.
    """

    def __init__(
        self, digest: str, index: Index, process: asyncio.subprocess.Process
    ) -> None:
        self.digest = digest
        self.index = index
        self.loaded = Loaded(load_ms=0, rss_mb=0)
        self._process = process
        self._turn = asyncio.Lock()
        self._ended: WorkerEndedError | None = None
        self._last_words = b""
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._listening: asyncio.Task[None]

    @classmethod
    async def start(
        cls, digest: str, index: Index, model: BinaryIO, *, timeout_s: float = START_S
    ) -> "Session":
        """Return a session once ``model``, verified and open, is loaded.

        Raises:
            RejectedError: ``LOAD_FAILED`` or ``MEMORY_EXCEEDED``.
            WorkerEndedError: It died or hung while loading.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await _spawn(theirs, model, index)
        except BaseException:
            ours.close()
            raise
        session = cls(digest, index, process)
        await session._connect(ours)
        try:
            await session._load(timeout_s)
        except BaseException:
            await session.close()
            raise
        return session

    async def _connect(self, link: socket.socket) -> None:
        self._listening = asyncio.create_task(self._listen(), name="last words")
        try:
            streams = await asyncio.open_connection(sock=link)
        except BaseException:
            link.close()
            self._kill()
            await self._reap()
            raise
        self._reader, self._writer = streams

    async def _load(self, timeout_s: float) -> None:
        tell = await self._within(self._hear(), timeout_s)
        if tell.loaded is None:
            raise _unexpected(tell)
        self.loaded = tell.loaded

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the worker can be asked."""
        return self._ended is None and self._process.returncode is None

    async def infer(self, payload: bytes, *, timeout_s: float) -> Answer:
        """Return the answer to one request, a ``.npy`` or ``.npz`` file's bytes.

        Raises:
            RejectedError: What is wrong with the request or the model.
            WorkerEndedError: The worker died, hung, or grew too big.
        """
        tell = await self._ask(Ask(do="infer"), payload, timeout_s)
        if tell.answer is None:
            raise _unexpected(tell)
        return tell.answer

    async def replay(
        self, vectors: bytes, golden: Golden, *, timeout_s: float | None = None
    ) -> GoldenReport:
        """Return what replaying the golden vectors showed.

        Raises:
            RejectedError: ``GOLDEN_FAILED``: the vectors do not fit the model.
            WorkerEndedError: The worker died, hung, or grew too big.
        """
        ask = Ask(do="golden", golden=golden)
        tell = await self._ask(ask, vectors, timeout_s or golden_s(self.index))
        if tell.report is None:
            raise _unexpected(tell)
        update = {"load_ms": self.loaded.load_ms}
        return tell.report.model_copy(update=update)

    async def watch(self) -> WorkerEndedError:
        """Return why the worker ended, once it has."""
        await self._process.wait()
        return self._why_ended()

    async def retire(self, timeout_s: float) -> None:
        """End the worker after it has answered what it was asked."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._turn.acquire()
        await self.close()

    async def close(self) -> None:
        """End the worker and wait until it is gone. Safe to repeat."""
        self._ended = self._ended or WorkerEndedError(Code.WORKER_CRASHED, "closed")
        self._writer.close()
        await self._reap()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(END_S):
                await self._writer.wait_closed()

    async def _ask(self, ask: Ask, body: bytes, timeout_s: float) -> Tell:
        async with self._turn:
            if not self.alive:
                raise self._why_ended()
            return await self._within(self._exchange(pack(ask, body)), timeout_s)

    async def _exchange(self, frame: bytes) -> Tell:
        self._writer.write(frame)
        await self._writer.drain()
        return await self._hear()

    async def _hear(self) -> Tell:
        header, body = lengths(await self._reader.readexactly(HEAD.size))
        tell = Tell.decode(await self._reader.readexactly(header + body))
        self._check_memory(tell.answer)
        return tell

    def _check_memory(self, answer: Answer | None) -> None:
        most = self.index.limits.memory_mb
        if answer is not None and answer.rss_mb > most:
            detail = f"the worker holds {answer.rss_mb} MiB, at most {most} are allowed"
            self._end(Code.MEMORY_EXCEEDED, detail)

    async def _within(
        self, talk: Coroutine[object, object, Tell], timeout_s: float
    ) -> Tell:
        """Return what ``talk`` hears; after it both ends agree or the worker is gone.

        A request that is cancelled half-way leaves an answer on the way that belongs to
        nobody, so the worker is ended then, too.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await talk
        except TimeoutError:
            detail = f"no answer for {timeout_s:g} s"
            raise self._end(Code.WORKER_HUNG, detail) from None
        except (asyncio.IncompleteReadError, OSError):
            await self._reap()
            raise self._why_ended() from None
        except (RejectedError, asyncio.CancelledError):
            self._end(Code.WORKER_CRASHED, "ended by its agent")
            raise

    async def _reap(self) -> None:
        """Wait for the worker's end, which closing its socket brings, or bring it."""
        try:
            async with asyncio.timeout(END_S):
                await self._process.wait()
        except TimeoutError:
            self._kill()
        except asyncio.CancelledError:
            self._kill()
            raise
        await self._process.wait()
        await self._listening

    def _end(self, code: Code, detail: str) -> WorkerEndedError:
        self._ended = self._ended or WorkerEndedError(code, detail)
        self._kill()
        return self._ended

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _why_ended(self) -> WorkerEndedError:
        if self._ended is None:
            status = _describe(self._process.returncode)
            words = " ".join(self._last_words.decode(errors="replace").split())
            detail = f"the worker {status}" + (f": {words[-200:]}" if words else "")
            self._ended = WorkerEndedError(Code.WORKER_CRASHED, detail)
        return self._ended

    async def _listen(self) -> None:
        """Keep the end of what the worker writes to its standard error."""
        stream = self._process.stderr
        while stream is not None and (data := await stream.read(4096)):
            self._last_words = (self._last_words + data)[-_STDERR_BYTES:]


def golden_s(index: Index) -> float:
    """Return how long replaying the vectors of ``index`` may take, seconds."""
    allowed_s = index.golden.count * index.limits.latency_ms / 1000
    return min(GOLDEN_S, GOLDEN_LEAST_S + GOLDEN_ROOM * allowed_s)


async def _spawn(
    link: socket.socket, model: BinaryIO, index: Index
) -> asyncio.subprocess.Process:
    arguments = {
        "socket": link.fileno(),
        "model": model.fileno(),
        "parent": os.getpid(),
        "memory-mb": index.limits.memory_mb,
        "session": index.session.encode().decode(),
    }
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "quarterdeck_agent.runtime.worker"),
            *(f"--{name}={value}" for name, value in arguments.items()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(link.fileno(), model.fileno()),
            env=_environment(index.session.threads),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise TransientError(Code.TIMED_OUT, f"no worker: {error}") from error


def _environment(threads: int) -> dict[str, str]:
    """Return the little that the worker needs of our environment."""
    kept = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    few = {name: os.environ[name] for name in kept if name in os.environ}
    # Libraries that start a thread for every core at import would eat the memory.
    return few | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}


def _unexpected(tell: Tell) -> QuarterdeckError:
    if tell.problem is not None:
        return RejectedError(tell.problem.code, tell.problem.detail)
    return RejectedError(Code.MALFORMED, "the worker answered something else")


def _describe(returncode: int | None) -> str:
    if returncode is None:
        return "closed its socket"
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"
