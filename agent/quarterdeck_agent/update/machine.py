"""The update machine: carries assignments out, one durable step at a time.

Every step is: decide, write the record, act. The action of a state may be repeated
from its beginning at any time, so after a crash the machine goes on from the record
alone. The newest assignment always pre-empts; it is verified beside the action that
it may interrupt, because only an authentic one may interrupt anything. The active
model serves all the while, from the first moment after a start and without a network.
"""

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_agent.update import decide
from quarterdeck_agent.update import record as steps
from quarterdeck_agent.update.ports import (
    Accepted,
    Fetched,
    Fetcher,
    Persisted,
    Runtime,
    Trust,
)
from quarterdeck_agent.update.record import Reason, Record
from quarterdeck_agent.update.slots import Slots
from quarterdeck_agent.update.transitions import Event, State
from quarterdeck_shared.assignment import Assignment
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.index import digest
from quarterdeck_shared.patience import wait_at_most

WATCH_S = 0.2
_WORKER = (Code.WORKER_CRASHED, Code.WORKER_HUNG, Code.MEMORY_EXCEEDED)
"""Ends of a worker that are the model's doing."""
_DISK = (Code.DISK_FULL, Code.DISK_FAILED)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """The next record, and why, in words."""

    record: Record
    why: str


Change = Callable[[Record], Step | None]
"""Says what a message means for the record as it is when its turn has come."""


class Machine:
    """Carries assignments out. All methods are called on one event loop.

    Attributes:
        record: What was made durable last.
        waiting: What stands in the way of the newest step, if something does.
    """

    def __init__(
        self,
        *,
        slots: Slots,
        trust: Trust,
        fetcher: Fetcher,
        runtime: Runtime,
        clock: Clock,
        draw: Callable[[], float],
        capabilities: Capabilities,
        persisted: Persisted = lambda _record, _why: None,
        acted: Callable[[Record], None] = lambda _record: None,
        refused: Callable[[Reason, str], None] = lambda _reason, _envelope: None,
    ) -> None:
        self.record = Record()
        self.waiting: Reason | None = None
        self._slots = slots
        self._trust = trust
        self._fetcher = fetcher
        self._runtime = runtime
        self._clock = clock
        self._draw = draw
        self._have = capabilities
        self._persisted = persisted
        self._acted = acted
        self._refused = refused
        self._changes: asyncio.Queue[Change] = asyncio.Queue(16)
        self._envelope: bytes | None = None
        self._turned_down: bytes | None = None
        self._offered = asyncio.Event()
        self._woken = asyncio.Event()

    def offer(self, envelope: bytes) -> None:
        """Take note of an assignment; only the newest one is kept."""
        self._envelope = envelope
        self._offered.set()
        self._woken.set()

    def wake(self) -> None:
        """Try again now what waits for its next attempt: something has changed.

        An assignment that was turned down is judged again: what it lacked, such as
        signed metadata that lists its artifact, may have arrived.
        """
        self._woken.set()
        if self._turned_down is not None and self._turned_down == self._envelope:
            self._offered.set()

    def crash_looped(self, artifact: str) -> None:
        """Learn that the active model keeps crashing."""
        with contextlib.suppress(asyncio.QueueFull):
            self._changes.put_nowait(lambda record: self._revert(record, artifact))

    def restore(self) -> str | None:
        """Read the record; return what was damaged, if anything was.

        Raises:
            TransientError: The state folder cannot be used.
        """
        self._slots.prepare()
        restored = self._slots.load()
        self.record = restored.record
        return restored.trouble

    async def run(self) -> None:
        """Carry assignments out until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._verify_offers(), name="verify assignments")
                group.create_task(self._carry_out(), name="carry assignments out")
        finally:
            await self._runtime.discard()

    # -- the loop -------------------------------------------------------------

    async def _carry_out(self) -> None:
        await self._take(self._restart(self.record))
        while True:
            await self._take(await self._next())

    async def _next(self) -> Step:
        """Return the next step: the action's, unless a message changes something."""
        action = asyncio.create_task(self._act(self.record), name="act")
        change = asyncio.create_task(self._changes.get(), name="await change")
        try:
            while True:
                await asyncio.wait({action, change}, return_when="FIRST_COMPLETED")
                if not change.done():
                    return action.result()
                step = change.result()(self.record)
                if step is not None:
                    return step
                change = asyncio.create_task(self._changes.get(), name="await change")
        finally:
            await _end(action, change)

    async def _take(self, step: Step) -> None:
        """Make the step durable; while the disk does not allow it, keep trying."""
        attempt = 0
        while True:
            try:
                self._slots.save(step.record)
                break
            except TransientError as error:
                attempt += 1
                await self._serve_unpersisted(step.record)
                await self._wait(attempt, Reason.of(error))
        before, self.record, self.waiting = self.record, step.record, None
        if before.state is State.PROVING and step.record.state is not State.PROBATION:
            await self._runtime.discard()
        self._persisted(step.record, step.why)
        self._slots.sweep(step.record)

    async def _serve_unpersisted(self, record: Record) -> None:
        """Serve though the disk refuses the record, but never switch by that."""
        if self.record.state is State.PROVING and record.state is State.PROBATION:
            return
        await self._runtime.serve(record.active.digest if record.active else None)

    async def _wait(self, attempt: int, reason: Reason) -> None:
        """Wait for the next attempt, or until something has changed."""
        pause = decide.retry_after(attempt, self._draw())
        level = logging.WARNING if self.waiting != reason else logging.DEBUG
        log.log(level, "waiting %.1f s: %s: %s", pause, reason.code, reason.detail)
        self.waiting = reason
        self._woken.clear()
        await wait_at_most(self._woken, pause)

    # -- the actions, one a state ----------------------------------------------

    async def _act(self, record: Record) -> Step:
        await self._runtime.serve(record.active.digest if record.active else None)
        try:
            match record.state:
                case State.IDLE:
                    return await self._rest(record)
                case State.FETCHING:
                    return await self._fetch(record)
                case State.PROVING:
                    return await self._prove(record)
                case State.PROBATION:
                    return await self._watch(record)
        except RejectedError as error:
            return _failed(record, Reason.of(error))

    async def _rest(self, record: Record) -> Step:
        if record.committed:
            with contextlib.suppress(TransientError):
                self._slots.mark_committed(record)
        self._acted(record)
        await asyncio.Event().wait()
        raise RuntimeError("an idle machine rests until something happens")

    async def _fetch(self, record: Record) -> Step:
        work = _work(record)
        if work.attempts:
            await self._wait(work.attempts, self.waiting or _told(record))
        try:
            got = await self._fill(record, work.digest)
        except TransientError as error:
            if error.code is Code.DISK_FULL:
                self._slots.empty(work.digest)  # leave nothing in anybody's way
            return _deferred(record, Reason.of(error))
        self._acted(record)
        after = steps.fetched(record, got.received_bytes, got.duplicate_bytes)
        return Step(after, f"received {got.received_bytes} bytes")

    async def _fill(self, record: Record, artifact: str) -> Fetched:
        """Fill the staged slot, when there is room for it now."""
        index = self._slots.index(artifact)
        present = self._slots.present_bytes(artifact)
        free = self._slots.free_bytes()
        reason = decide.room(index, free_bytes=free, present_bytes=present)
        if reason is not None:
            raise TransientError(reason.code, reason.detail)
        folder, others = self._slots.folder(artifact), self._others(record)
        return await self._fetcher.fetch(artifact, index, folder, reuse=others)

    def _others(self, record: Record) -> list[Path]:
        named = {slot.digest for slot in (record.active, record.previous) if slot}
        return [self._slots.folder(d) for d in sorted(named - {_work(record).digest})]

    async def _prove(self, record: Record) -> Step:
        work = _work(record)
        if work.attempts:
            await self._wait(work.attempts, self.waiting or _told(record))
        try:
            report = await self._runtime.prove(work.digest)
        except QuarterdeckError as error:
            return self._unproved(record, error)
        self._acted(record)
        index = self._slots.index(work.digest)
        reason = decide.judge_golden(report, index.golden, index.limits)
        if reason is not None:
            return _failed(record, reason)
        return Step(
            steps.proved(record),
            f"{report.agreed} of {report.clear} clear vectors agree, error "
            f"{report.error:.4f}, p90 {report.p90_ms:.2f} ms, {report.rss_mb} MiB",
        )

    def _unproved(self, record: Record, error: QuarterdeckError) -> Step:
        reason = Reason.of(error)
        if error.code is Code.ARTIFACT_INVALID:
            given_up = decide.after_damage(record, error.detail)
            if given_up is not None:
                return _failed(record, given_up)
            return Step(steps.damaged(record), error.detail)
        if isinstance(error, TransientError) and error.code not in _WORKER:
            return _deferred(record, reason)
        return _failed(record, reason)

    async def _watch(self, record: Record) -> Step:
        work = _work(record)
        limits = self._slots.index(work.digest).limits
        began = self._clock.monotonic()
        while True:
            tally, elapsed = self._runtime.tally(), self._clock.monotonic() - began
            verdict = decide.judge_probation(tally, elapsed, work.probation, limits)
            if isinstance(verdict, Reason):
                self._acted(record)
                return _failed(record, verdict)
            if verdict is not None:
                self._acted(record)
                why = f"{tally.requests} requests, {tally.errors} failed"
                return Step(steps.passed(record), why)
            await asyncio.sleep(min(WATCH_S, max(0.01, work.probation.seconds / 4)))

    # -- what messages mean -----------------------------------------------------

    def _restart(self, record: Record) -> Step:
        again = steps.restarted(record)
        reason = decide.after_restart(again)
        if reason is not None:
            return _failed(again, reason)
        return Step(again, "the agent was started")

    def _revert(self, record: Record, artifact: str) -> Step | None:
        """Go back from an active model that keeps crashing, if there is a way back."""
        if record.active is None or record.active.digest != artifact:
            return None
        if record.state is State.PROBATION or record.previous is None:
            return None
        reason = decide.crash_loop(self._runtime.tally())
        blamed = decide.blames_artifact(reason.code)
        return Step(steps.reverted(record, reason, quarantine=blamed), reason.detail)

    # -- verifying ----------------------------------------------------------------

    async def _verify_offers(self) -> None:
        attempt = 0
        while True:
            if attempt == 0:
                await self._offered.wait()
            self._offered.clear()
            envelope = self._envelope
            if envelope is None or digest(envelope) == self.record.envelope:
                attempt = 0
                continue
            reason = await self._verify(envelope)
            attempt = 0 if reason is None else attempt + 1
            if reason is not None and not self._offered.is_set():
                await self._wait_offer(attempt, reason)

    async def _wait_offer(self, attempt: int, reason: Reason) -> None:
        """Wait until the envelope in hand may be judged differently."""
        pause = decide.retry_after(attempt, self._draw())
        log.warning("assignment not accepted: %s: %s", reason.code, reason.detail)
        self._woken.clear()
        await wait_at_most(self._woken, pause)

    async def _verify(self, envelope: bytes) -> Reason | None:
        """Have an envelope checked; return why it must be checked again, if so."""
        try:
            accepted = await asyncio.to_thread(self._trust.accept, envelope)
        except TransientError as error:
            return Reason.of(error)
        except RejectedError as error:
            return await self._turn_down(envelope, Reason.of(error))
        await self._changes.put(lambda record: self._begin(record, accepted, envelope))
        return None

    async def _turn_down(self, envelope: bytes, reason: Reason) -> Reason | None:
        log.warning("assignment refused: %s: %s", reason.code, reason.detail)
        self._turned_down = envelope
        self._refused(reason, digest(envelope))
        if reason.code in decide.AUTHENTIC:
            assignment = _payload(envelope)
            await self._changes.put(
                lambda record: self._answer_refused(record, assignment, reason)
            )
        return None

    def _answer_refused(
        self, record: Record, assignment: Assignment, reason: Reason
    ) -> Step | None:
        if assignment.sequence <= record.sequence:
            return None
        after = steps.refused(record, assignment, None, reason)
        return Step(after, f"{reason.code}: {reason.detail}")

    def _begin(
        self, record: Record, accepted: Accepted, envelope: bytes
    ) -> Step | None:
        """Begin an assignment, unless it is the one that is carried out already."""
        assignment, artifact = accepted.assignment, accepted.artifact
        mark = digest(envelope)
        if record.envelope == mark:
            return None
        event = decide.begin(record, artifact)
        is_active = event in (Event.KEPT, Event.WATCHED)
        if is_active:
            self._stage(accepted)  # its content key may be of a new seal key
        if event is Event.KEPT:
            return Step(steps.kept(record, assignment, mark), "it is active already")
        reason = self._objection(record, accepted)
        if reason is None and not is_active:
            reason = self._stage(accepted)
        if reason is None:
            after = steps.assigned(record, event, assignment, mark)
            return Step(after, f"{assignment.release}: {assignment.reason}")
        if reason.code in _DISK:
            self._offer_again(envelope, reason)
            return None
        after = steps.refused(record, assignment, mark, reason)
        return Step(after, f"{reason.code}: {reason.detail}")

    def _stage(self, accepted: Accepted) -> Reason | None:
        try:
            self._slots.stage(
                accepted.artifact, accepted.index, accepted.assignment.content_key
            )
        except QuarterdeckError as error:
            return Reason.of(error)
        return None

    def _offer_again(self, envelope: bytes, reason: Reason) -> None:
        """Have an assignment begun later for which not even its index found room."""
        self.waiting = reason
        pause = decide.retry_after(3, self._draw())
        again = asyncio.get_running_loop().call_later
        again(pause, lambda: self.offer(self._envelope or envelope))

    def _objection(self, record: Record, accepted: Accepted) -> Reason | None:
        return decide.may_install(
            accepted.index, digest=accepted.artifact, record=record, have=self._have
        )


def _work(record: Record) -> steps.Work:
    if record.work is None:
        raise RuntimeError(f"nothing is being carried out while {record.state}")
    return record.work


def _told(record: Record) -> Reason:
    told = record.update
    code = told.code if told is not None and told.code is not None else Code.TIMED_OUT
    return Reason(code, told.detail if told is not None else "")


def _deferred(record: Record, reason: Reason) -> Step:
    return Step(steps.deferred(record, reason), f"{reason.code}: {reason.detail}")


def _failed(record: Record, reason: Reason) -> Step:
    blamed = decide.blames_artifact(reason.code) and record.state is not State.FETCHING
    after = steps.failed(record, reason, quarantine=blamed)
    return Step(after, f"{reason.code}: {reason.detail}")


def _payload(envelope: bytes) -> Assignment:
    """Return the payload of an envelope whose signature was verified."""
    return Assignment.decode(base64.b64decode(json.loads(envelope)["payload"]))


async def _end(*tasks: "asyncio.Task[object]") -> None:
    """Cancel what is still running and wait for it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
