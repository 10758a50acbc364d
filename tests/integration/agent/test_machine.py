"""The update machine in this process, with ports backed by folders."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from quarterdeck_agent.evidence import Tally
from quarterdeck_agent.update import decide
from quarterdeck_agent.update.machine import Machine
from quarterdeck_agent.update.ports import Accepted, Fetched, Fetcher, Trust
from quarterdeck_agent.update.record import Reason, Record
from quarterdeck_agent.update.slots import CONTENT_KEY
from quarterdeck_agent.update.transitions import Event, State
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.index import Index
from tests.support.brokers import until
from tests.support.crash_machine import (
    CAPABILITIES,
    FolderFetcher,
    FolderRuntime,
    FolderTrust,
    World,
)


@dataclass
class Stage:
    """A machine that runs, and what it did."""

    world: World
    machine: Machine
    steps: list[Record] = field(default_factory=list)
    refusals: list[Reason] = field(default_factory=list)

    def offer(self, artifact: str, sequence: int = 2) -> None:
        self.world.assign(artifact, sequence)
        self.machine.offer((self.world.folder / "assignment").read_bytes())

    @property
    def events(self) -> list[Event | None]:
        return [record.event for record in self.steps]

    def outcome(self) -> tuple[str, Code | None]:
        update = self.machine.record.update
        return (update.outcome, update.code) if update else ("none", None)


@dataclass(frozen=True)
class Stubborn:
    """A trust and a fetcher that fail as told before they do their work."""

    world: World
    troubles: list[QuarterdeckError]

    def accept(self, envelope: bytes) -> Accepted:
        self._fail()
        return FolderTrust(self.world).accept(envelope)

    async def fetch(
        self, artifact: str, index: Index, folder: Path, *, reuse: Sequence[Path] = ()
    ) -> Fetched:
        self._fail()
        fetcher = FolderFetcher(self.world)
        return await fetcher.fetch(artifact, index, folder, reuse=reuse)

    def _fail(self) -> None:
        if self.troubles:
            raise self.troubles.pop(0)


class Stuck:
    """A fetcher that never gets anything, and notes when it is cancelled."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.cancelled: list[str] = []

    async def fetch(
        self, artifact: str, index: Index, folder: Path, *, reuse: Sequence[Path] = ()
    ) -> Fetched:
        del index, folder, reuse
        self.began.append(artifact)
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.append(artifact)
        raise AssertionError


class CrashingRuntime(FolderRuntime):
    """Tells a tally that is set by hand."""

    told = Tally()

    def tally(self) -> Tally:
        return self.told


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@asynccontextmanager
async def running(
    world: World,
    *,
    trust: Trust | None = None,
    fetcher: Fetcher | None = None,
    runtime: FolderRuntime | None = None,
) -> AsyncIterator[Stage]:
    steps: list[Record] = []
    refusals: list[Reason] = []
    machine = Machine(
        slots=world.slots,
        trust=trust or FolderTrust(world),
        fetcher=fetcher or FolderFetcher(world),
        runtime=runtime or FolderRuntime(world),
        clock=SystemClock(),
        draw=lambda: 0.0,
        capabilities=CAPABILITIES,
        persisted=lambda record, _why: steps.append(record),
        refused=lambda reason, _envelope: refusals.append(reason),
    )
    machine.restore()
    task = asyncio.create_task(machine.run())
    try:
        yield Stage(world, machine, steps, refusals)
    finally:
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        assert [r for r in results if not isinstance(r, asyncio.CancelledError)] == []


async def settled(stage: Stage, outcome: str) -> None:
    def holds() -> bool:
        idle = stage.machine.record.state is State.IDLE
        return idle and stage.outcome()[0] == outcome

    await until(holds, outcome)


async def test_a_delivery_of_what_was_carried_out_changes_nothing(
    world: World,
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(a)

    async with running(world) as stage:
        stage.offer(b)
        await settled(stage, "committed")
        before = len(stage.steps)
        for _ in range(3):
            stage.machine.offer((world.folder / "assignment").read_bytes())
            stage.machine.wake()
            await asyncio.sleep(0.02)

        assert len(stage.steps) == before


async def test_an_assignment_of_what_is_active_is_committed_at_once(
    world: World,
) -> None:
    a = world.release(1, "good")
    world.install(a)

    async with running(world, fetcher=Stuck()) as stage:
        stage.offer(a, sequence=9)
        await settled(stage, "committed")

        assert stage.machine.record.sequence == 9
        assert stage.events == [Event.RESTARTED, Event.KEPT]


@dataclass(frozen=True)
class Sealing:
    """A trust whose assignments carry a content key."""

    world: World
    key: bytes

    def accept(self, envelope: bytes) -> Accepted:
        accepted = FolderTrust(self.world).accept(envelope)
        keyed = {"content_key": self.key}
        return replace(
            accepted, assignment=accepted.assignment.model_copy(update=keyed)
        )


async def test_the_newest_content_key_of_what_is_active_is_kept(world: World) -> None:
    a = world.release(1, "good")
    world.install(a)
    world.slots.stage(a, world.index(a), b"of a seal key that is lost")

    async with running(world, trust=Sealing(world, b"new"), fetcher=Stuck()) as stage:
        stage.offer(a, sequence=9)
        await settled(stage, "committed")

    assert (world.slots.folder(a) / CONTENT_KEY).read_bytes() == b"new"


async def test_a_newer_assignment_ends_a_fetch(world: World) -> None:
    a, b, c = (world.release(n, "good") for n in (1, 2, 3))
    world.install(a)
    stuck = Stuck()

    async with running(world, fetcher=stuck) as stage:
        stage.offer(b, 2)
        await until(lambda: stuck.began == [b], "the first fetch")
        stage.offer(c, 3)
        await until(lambda: stuck.began == [b, c], "the second fetch")
        stage.offer(a, 4)
        await settled(stage, "committed")

        assert stuck.cancelled == [b, c]
        assert [folder.name for folder in world.slots.folders()] == [a]


async def test_a_lower_number_is_carried_out_when_trust_accepts_it(
    world: World,
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(a)

    async with running(world) as stage:
        stage.offer(a, 5)
        await settled(stage, "committed")
        stage.offer(b, 4)  # a new director counts anew
        await until(lambda: stage.machine.record.sequence == 4, "its beginning")
        await settled(stage, "committed")

        assert stage.machine.record.active is not None
        assert stage.machine.record.active.digest == b


@pytest.mark.parametrize("code", [Code.FETCH_STALLED, Code.DISK_FAILED])
async def test_transient_trouble_is_deferred_told_and_overcome(
    world: World, code: Code
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(a)
    fetcher = Stubborn(world, [TransientError(code, "for a test")])

    async with running(world, fetcher=fetcher) as stage:
        stage.offer(b)
        await until(lambda: stage.outcome() == ("deferred", code), "deferred")
        stage.machine.wake()
        await settled(stage, "committed")

        assert Event.DEFERRED in stage.events


async def test_an_assignment_that_cannot_be_verified_yet_is_tried_again(
    world: World,
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(a)
    trust = Stubborn(world, [TransientError(Code.TIMED_OUT, "for a test")])

    async with running(world, trust=trust) as stage:
        stage.offer(b)
        await until(lambda: not trust.troubles, "the first attempt")
        stage.machine.wake()
        await settled(stage, "committed")


async def test_an_authentic_assignment_that_is_refused_is_answered(
    world: World,
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(a)
    trust = Stubborn(world, [RejectedError(Code.ASSIGNMENT_UNSIGNED, "for a test")])

    async with running(world, trust=trust) as stage:
        stage.offer(b)
        await until(lambda: stage.refusals, "the refusal")

        assert stage.outcome() == ("none", None)
        assert [r.code for r in stage.refusals] == [Code.ASSIGNMENT_UNSIGNED]
        stage.machine.wake()
        await settled(stage, "committed")


async def test_what_failed_once_is_refused_before_a_byte_moves(world: World) -> None:
    a, b = world.release(1, "good"), world.release(2, "worse")
    world.install(a)
    stuck = Stuck()

    async with running(world) as stage:
        stage.offer(b)
        await settled(stage, "rolled_back")
    async with running(world, fetcher=stuck) as stage:
        stage.offer(b, 3)
        await settled(stage, "refused")

        assert stage.outcome() == ("refused", Code.QUARANTINED)
        assert stuck.began == []


async def test_a_committed_model_that_keeps_crashing_gives_way_to_the_previous(
    world: World,
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(b, previous=a)
    runtime = CrashingRuntime(world)
    runtime.told = Tally(crashes=5, last=Code.WORKER_CRASHED, cause="SIGSEGV")

    async with running(world, runtime=runtime) as stage:
        await until(lambda: stage.steps, "the start")
        stage.machine.crash_looped(b)
        await settled(stage, "rolled_back")

        record = stage.machine.record
        assert record.active is not None
        assert record.active.digest == a
        assert [q.digest for q in record.quarantine] == [b]
        assert world.log()[-1] == ["serve", a]


async def test_a_slot_that_rots_is_fetched_again(world: World) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(b, previous=a)
    (world.slots.folder(a) / "model.onnx").write_bytes(b"rot")

    async with running(world) as stage:
        stage.offer(a)
        await settled(stage, "committed")

        assert Event.DAMAGED in stage.events
        assert stage.events.count(Event.FETCHED) == 1


async def test_with_a_record_lost_by_half_it_goes_on_from_the_copy(
    world: World,
) -> None:
    a = world.release(1, "good")
    world.install(a)
    (world.state / "update.json").write_bytes(b"\x00" * 40)

    async with running(world) as stage:
        await until(lambda: stage.steps, "the start")

        assert world.log()[-1] == ["serve", a]


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """The state folder on a disk of its own, with little room: a real ENOSPC."""
    world.state.mkdir()
    size = f"size={decide.RESERVE_BYTES + (1 << 20)}"
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            [_tool("mount"), "-t", "tmpfs", "-o", size, "tmpfs", str(world.state)],
            check=False,
            capture_output=True,
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("a disk of its own needs the right to mount one")
    yield world.state
    subprocess.run([_tool("umount"), "-l", str(world.state)], check=True)


def _tool(name: str) -> str:
    return shutil.which(name) or name


def eat(folder: Path, leave_bytes: int) -> Path:
    """Fill the disk but for that many bytes, and return what fills it."""
    filler = folder / "filler"
    stat = os.statvfs(folder)
    filler.write_bytes(b"\0" * (stat.f_bavail * stat.f_frsize - leave_bytes))
    return filler


async def test_without_room_it_waits_says_so_and_goes_on_when_there_is_room(
    world: World, small_disk: Path
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(a)
    filler = eat(small_disk, 1 << 20)

    async with running(world) as stage:
        stage.offer(b)
        await until(lambda: stage.outcome() == ("deferred", Code.DISK_FULL), "deferred")
        left = [p.name for p in world.slots.folder(b).iterdir()]
        filler.unlink()
        stage.machine.wake()
        await settled(stage, "committed")

    assert left == ["index.json"]
    assert next(line for line in world.log() if line[0] == "serve") == ["serve", a]


async def test_on_a_disk_without_a_byte_left_it_serves_and_recovers(
    world: World, small_disk: Path
) -> None:
    a, b = world.release(1, "good"), world.release(2, "good")
    world.install(a)
    filler = eat(small_disk, 0)

    async with running(world) as stage:
        await until(lambda: ["serve", a] in world.log(), "serving")
        await until(lambda: stage.machine.waiting, "the wait")
        waiting = stage.machine.waiting
        stage.offer(b)
        filler.unlink()
        stage.machine.wake()
        await settled(stage, "committed")

    assert waiting is not None
    assert waiting.code is Code.DISK_FULL
    assert ["serve", b] in world.log()
