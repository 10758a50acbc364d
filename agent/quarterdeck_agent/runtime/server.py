"""Serves requests with the active model, and hands over between models.

One dispatcher takes one request after the other, so a hand-over happens between two
of them: the old worker finishes what it has begun, the new one, loaded and proven by
then, takes the next, and the old one is closed. No request is dropped by that, and
none is answered by a model that was not active when it was begun.

A worker that ends is started again with growing pauses; requests wait in the bounded
queue meanwhile. Past the bound they are turned away at once and counted.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

from quarterdeck_agent.evidence import Answer, GoldenReport, Tally
from quarterdeck_agent.runtime.session import Session
from quarterdeck_agent.update.slots import Slots
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.patience import wait_at_most
from quarterdeck_shared.telemetry.sketch import Sketch

QUEUE_LENGTH = 64
REQUEST_S = 20.0
FIRST_RESTART_S, LONGEST_RESTART_S = 0.2, 30.0
LOOP_CRASHES, LOOP_WINDOW_S = 5, 120.0
"""So many crashes within so long are a crash loop."""

log = logging.getLogger(__name__)


class Meter(Protocol):
    """Who counts what the models do. Must return at once."""

    def answered(self, artifact: str, answer: Answer, label: int | None) -> None:
        """Count an inference."""
        ...

    def failed(self, artifact: str | None) -> None:
        """Count a request that got no answer."""
        ...

    def dropped(self) -> None:
        """Count a request that was turned away."""
        ...

    def proved(self, artifact: str, report: GoldenReport) -> None:
        """Count a replay of the golden vectors."""
        ...

    def restarted(self, artifact: str) -> None:
        """Count a worker that had to be started again."""
        ...

    def swapped(self, artifact: str | None) -> None:
        """Learn that ``artifact`` answers from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and which artifact gave it."""

    artifact: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Request:
    payload: bytes
    label: int | None
    done: "asyncio.Future[Reply]"


class Server:
    """Runs the active model. All methods are called on one event loop.

    ``on_crash_loop`` is called when the active model keeps crashing.
    """

    def __init__(
        self,
        slots: Slots,
        meter: Meter,
        clock: Clock,
        *,
        on_crash_loop: Callable[[str], None] = lambda _: None,
        request_s: float = REQUEST_S,
    ) -> None:
        self.on_crash_loop = on_crash_loop
        self._slots = slots
        self._meter = meter
        self._clock = clock
        self._request_s = request_s
        self._requests: asyncio.Queue[_Request] = asyncio.Queue(QUEUE_LENGTH)
        self._active: str | None = None
        self._session: Session | None = None
        self._warm: Session | None = None
        self._ready = asyncio.Event()
        self._has_active = asyncio.Event()
        self._tally = Tally()
        self._crashes: tuple[float, ...] = ()
        self._attempts = 0
        self._retiring: set[asyncio.Task[None]] = set()

    # -- for the update machine ----------------------------------------------

    @property
    def active(self) -> str | None:
        """The artifact that answers, or would if its worker were up."""
        return self._active

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that are up."""
        sessions = (self._session, self._warm)
        return tuple(s.pid for s in sessions if s is not None and s.alive)

    @property
    def serving(self) -> bool:
        """Whether the active model's worker is up."""
        return self._session is not None and self._session.alive

    def tally(self) -> Tally:
        """Return what the active model did since it took over."""
        return replace(self._tally, latency=Sketch(self._tally.latency.counts))

    async def prove(self, artifact: str) -> GoldenReport:
        """Load the artifact of a slot beside the active one and replay its vectors.

        Its worker stays warm for ``serve``.

        Raises:
            RejectedError: ``ARTIFACT_INVALID`` (6.12), ``LOAD_FAILED``,
                ``GOLDEN_FAILED``.
            WorkerEndedError: The worker ended by its own doing.
        """
        await self.discard()
        index = await asyncio.to_thread(self._slots.verify, artifact)
        session = await self._start(artifact)
        self._warm = session
        with self._slots.open(artifact, index, "golden.npz") as file:
            vectors = file.read()
        report = await session.replay(vectors, index.golden)
        self._meter.proved(artifact, report)
        return report

    async def discard(self) -> None:
        """End the worker that was kept warm, if any."""
        warm, self._warm = self._warm, None
        if warm is not None:
            await warm.close()

    async def serve(self, artifact: str | None) -> None:
        """Have ``artifact`` answer from now on. Safe to repeat.

        Returns once it answers; when it cannot be started now, after the first
        attempt: ``run`` keeps trying, as it does whenever a worker has ended.
        """
        if artifact == self._active:
            await self.discard()
            return
        session = await self._successor(artifact)
        old, self._session, self._active = self._session, session, artifact
        self._tally, self._crashes, self._attempts = Tally(), (), 0
        self._meter.swapped(artifact)
        self._ready.set()
        if artifact is None:
            self._has_active.clear()
        else:
            self._has_active.set()
        _say_serving(session)
        if old is not None:
            task = asyncio.create_task(old.retire(self._request_s), name="retire")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _successor(self, artifact: str | None) -> Session | None:
        """Return the worker that takes over; the old one answers until then."""
        warm, self._warm = self._warm, None
        if warm is not None and warm.digest == artifact and warm.alive:
            return warm
        if warm is not None:
            await warm.close()
        return None if artifact is None else await self._start_or_none(artifact)

    # -- for sources and applications ----------------------------------------

    async def until_active(self) -> None:
        """Return once there is a model, however long that takes."""
        await self._has_active.wait()

    async def infer(self, payload: bytes, label: int | None = None) -> Reply:
        """Return the active model's answer.

        ``label`` is the true class where it is known.

        Raises:
            RejectedError: ``NOTHING_ACTIVE``, or what is wrong with the request.
            TransientError: ``OVERLOADED``, ``TIMED_OUT``, or the worker ended.
        """
        if self._active is None:
            raise RejectedError(Code.NOTHING_ACTIVE, "no model is active")
        done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        try:
            self._requests.put_nowait(_Request(payload, label, done))
        except asyncio.QueueFull:
            self._meter.dropped()
            detail = f"{QUEUE_LENGTH} requests are waiting"
            raise TransientError(Code.OVERLOADED, detail) from None
        try:
            async with asyncio.timeout(2 * self._request_s):
                return await done
        except TimeoutError:
            detail = f"no answer for {2 * self._request_s:g} s"
            raise TransientError(Code.TIMED_OUT, detail) from None

    async def run(self) -> None:
        """Answer requests until cancelled, then end every worker."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatch(), name="dispatch")
                group.create_task(self._keep_up(), name="keep the worker up")
        finally:
            await self._stop()

    async def _stop(self) -> None:
        session, self._session = self._session, None
        while not self._requests.empty():
            self._requests.get_nowait().done.cancel()
        for each in (session, self._warm):
            if each is not None:
                await each.close()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _dispatch(self) -> None:
        while True:
            request = await self._requests.get()
            while not request.done.done():
                session = self._session
                if session is not None and session.alive:
                    await self._answer(session, request)
                    break
                await self._wait_ready(request)

    async def _wait_ready(self, request: _Request) -> None:
        """Wait until there may be a worker, or nobody waits for the request."""
        self._ready.clear()
        if self._active is None:
            error = RejectedError(Code.NOTHING_ACTIVE, "no model is active")
            request.done.set_exception(error)
            return
        await wait_at_most(self._ready, 1.0)

    async def _answer(self, session: Session, request: _Request) -> None:
        try:
            answer = await session.infer(request.payload, timeout_s=self._request_s)
        except QuarterdeckError as error:
            self._count_failure(session, error)
            if not request.done.done():
                request.done.set_exception(error)
            return
        if session.digest == self._active:
            self._tally = replace(self._tally, requests=self._tally.requests + 1)
            self._tally.latency.add(answer.latency_ns)
        self._meter.answered(session.digest, answer, request.label)
        if not request.done.done():
            request.done.set_result(Reply(session.digest, answer))

    def _count_failure(self, session: Session, error: QuarterdeckError) -> None:
        """Count a failed request; one that holds no tensor is not the model's fault."""
        self._meter.failed(session.digest)
        blames_model = error.code is not Code.REQUEST_INVALID
        if session.digest == self._active and blames_model:
            self._tally = replace(
                self._tally,
                requests=self._tally.requests + 1,
                errors=self._tally.errors + 1,
            )

    # -- keeping the worker up -----------------------------------------------

    async def _keep_up(self) -> None:
        while True:
            session, active = self._session, self._active
            if session is not None:
                await self._watch(session)
            elif active is not None:
                await self._restart(active)
            else:
                await self._changed()

    async def _changed(self) -> None:
        await wait_at_most(self._ready, 0.2)

    async def _watch(self, session: Session) -> None:
        """Return when the worker has ended, or another one serves."""
        try:
            async with asyncio.timeout(0.5):
                error = await session.watch()
        except TimeoutError:
            return
        if session is self._session:
            self._session = None
            self._count_crash(session.digest, error)
            await session.close()

    async def _restart(self, active: str) -> None:
        await asyncio.sleep(self._pause())
        self._attempts += 1
        if self._active != active or self._session is not None:
            return
        session = await self._start_or_none(active)
        if session is None:
            return
        if self._active != active or self._session is not None:
            await session.close()
            return
        self._session = session
        self._ready.set()
        _say_serving(session)

    def _pause(self) -> float:
        if self._attempts == 0:
            return 0.0
        return float(
            min(LONGEST_RESTART_S, FIRST_RESTART_S * 2 ** (self._attempts - 1))
        )

    async def _start_or_none(self, artifact: str) -> Session | None:
        try:
            return await self._start(artifact)
        except QuarterdeckError as error:
            if artifact == self._active:
                self._count_crash(artifact, error)
            return None

    async def _start(self, artifact: str) -> Session:
        index = self._slots.index(artifact)
        opening = asyncio.create_task(
            asyncio.to_thread(self._slots.open, artifact, index, "model.onnx")
        )
        try:
            model = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)  # the thread goes on and opens it
            raise
        with model:
            return await Session.start(artifact, index, model)

    def _count_crash(self, artifact: str, error: QuarterdeckError) -> None:
        now = self._clock.monotonic()
        recent = tuple(at for at in self._crashes if now - at < LOOP_WINDOW_S)
        self._crashes = (*recent, now)
        tally = self._tally
        self._tally = replace(
            tally,
            crashes=tally.crashes + 1,
            hangs=tally.hangs + (error.code is Code.WORKER_HUNG),
            bloats=tally.bloats + (error.code is Code.MEMORY_EXCEEDED),
            last=error.code,
            cause=error.detail[:200],
        )
        self._meter.restarted(artifact)
        level = logging.WARNING if len(self._crashes) == 1 else logging.DEBUG
        log.log(level, "the worker of %s is gone: %s", artifact[:12], error)
        if len(self._crashes) >= LOOP_CRASHES:
            self.on_crash_loop(artifact)


def _close(opening: "asyncio.Task[BinaryIO]") -> None:
    """Close a file that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _say_serving(session: Session | None) -> None:
    if session is not None:
        index, loaded = session.index, session.loaded
        name = f"{index.model}@{index.version} ({session.digest[:12]})"
        log.info("%s serves, loaded in %.0f ms", name, loaded.load_ms)
