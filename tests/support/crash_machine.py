"""The update machine in a process of its own, with ports backed by folders.

Everything that the machine needs from outside lies in one folder, the world: the
releases that can be fetched, the assignment, and a log of what was proved and served.
A behaviour is written in place of a model: ``good``, ``wrong`` (its golden vectors
differ) or ``worse`` (it fails live requests).
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from quarterdeck_agent.durable import write
from quarterdeck_agent.evidence import GoldenReport, Tally
from quarterdeck_agent.update.machine import Machine
from quarterdeck_agent.update.record import Record
from quarterdeck_agent.update.slots import COPY, Slots
from quarterdeck_agent.update.transitions import State
from quarterdeck_agent.update.unseal import Opener
from quarterdeck_shared.assignment import Assignment, Probation, Target
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.index import Index, digest
from quarterdeck_shared.reported import Slot
from tests.support.installed import CLASS, fill, make_index

Moment = Literal["persisted", "acted", "torn"]
DEVICE = "dev-1"
CAPABILITIES = Capabilities(
    isa=("x86-64", "avx2"),
    memory_mb=4096,
    cpus=2,
    runtime="1.32.0",
    providers=("CPUExecutionProvider",),
)
PATIENCE_S = 30


@dataclass(frozen=True)
class Kill:
    """Where the process ends itself: the ``nth`` time it is at that point."""

    state: State
    moment: Moment
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.state}-{self.moment}" + (f"-{self.nth}" if self.nth > 1 else "")


@dataclass(frozen=True)
class World:
    """The folder, and who looks into it."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def slots(self) -> Slots:
        return Slots(
            self.state, SystemClock(), Opener("device-1", self.state / "seal.key")
        )

    def release(self, version: int, behaviour: str) -> str:
        """Publish an artifact and return its digest."""
        files = {
            "model.onnx": behaviour.encode() + b"." * 3000,
            "golden.npz": b"vectors %d" % version,
        }
        index = make_index(files, version=version)
        artifact = digest(index.encode())
        folder = self.folder / "releases" / artifact
        folder.mkdir(parents=True)
        (folder / "index.json").write_bytes(index.encode())
        fill(folder, files)
        return artifact

    def install(self, active: str | None, previous: str | None = None) -> None:
        """Have the device run ``active``, committed before."""
        slots = self.slots
        slots.prepare()
        named = [slot for slot in (active, previous) if slot is not None]
        for artifact in named:
            folder = self.folder / "releases" / artifact
            index = self.index(artifact)
            files = {str(p.name): (folder / p.name).read_bytes() for p in index.parts}
            fill(slots.stage(artifact, index), files)
        slots.save(
            Record(
                step=7,
                sequence=1,
                active=Slot(digest=active, release="toy@1") if active else None,
                previous=Slot(digest=previous, release="toy@2") if previous else None,
                committed=active is not None,
            )
        )

    def assign(self, artifact: str, sequence: int = 2) -> None:
        """Have the controller want ``artifact``."""
        data = self.index(artifact).encode()
        now = datetime.now(UTC)
        assignment = Assignment(
            device=DEVICE,
            device_class=CLASS,
            sequence=sequence,
            issued=now,
            expires=now + timedelta(days=1),
            release=f"toy@{sequence}",
            target=Target(
                path=f"classes/{CLASS}/toy-{sequence}.idx",
                length=len(data),
                sha256=artifact,
            ),
            probation=Probation(seconds=0.05, max_errors=0),
        )
        (self.folder / "assignment").write_bytes(assignment.encode())

    def index(self, artifact: str) -> Index:
        """Return a published index."""
        path = self.folder / "releases" / artifact / "index.json"
        return Index.decode(path.read_bytes())

    def note(self, *words: object) -> None:
        """Append to the log; a line is whole or absent."""
        with (self.folder / "log").open("ab", buffering=0) as log:
            log.write(" ".join(map(str, words)).encode() + b"\n")

    def log(self) -> list[list[str]]:
        """Return what was noted."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split() for line in lines]

    @property
    def record(self) -> Record:
        return self.slots.load().record


@dataclass(frozen=True)
class _Accepted:
    assignment: Assignment
    artifact: str
    index: Index


@dataclass(frozen=True)
class _Fetched:
    received_bytes: int
    duplicate_bytes: int = 0


@dataclass(frozen=True)
class FolderTrust:
    """Believes what lies in the world's folder."""

    world: World

    def accept(self, envelope: bytes) -> _Accepted:
        assignment = Assignment.decode(envelope)
        artifact = assignment.target.sha256
        return _Accepted(assignment, artifact, self.world.index(artifact))


@dataclass(frozen=True)
class FolderFetcher:
    """Copies chunk by chunk, and goes on where it was interrupted."""

    world: World

    async def fetch(
        self, artifact: str, index: Index, folder: Path, *, reuse: Sequence[Path] = ()
    ) -> _Fetched:
        del reuse
        received = 0
        for chunk in index.chunk_list():
            source = self.world.folder / "releases" / artifact / chunk.part
            data = source.read_bytes()[chunk.offset : chunk.offset + chunk.length]
            path = folder / chunk.part
            path.touch()
            with path.open("r+b") as file:
                file.seek(chunk.offset)
                if file.read(chunk.length) != data:
                    file.seek(chunk.offset)
                    file.write(data)
                    received += chunk.length
                    self.world.note("received", artifact, chunk.length)
            await asyncio.sleep(0)
        return _Fetched(received)


class FolderRuntime:
    """Reads a behaviour where a model would be, and notes what it serves."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._slots = world.slots
        self._active: str | None = None
        self._began = False

    def tally(self) -> Tally:
        failing = self._active is not None and self._behaves() == b"worse"
        return Tally(requests=5, errors=5 if failing else 0)

    async def prove(self, artifact: str) -> GoldenReport:
        index = self._slots.verify(artifact)
        wrong = self._of(artifact) == b"wrong"
        count = index.golden.count
        if not wrong:
            self._world.note("proved", artifact)
        return GoldenReport(
            count=count,
            clear=count,
            agreed=0 if wrong else count,
            error=0,
            p50_ms=1,
            p90_ms=1,
            p99_ms=1,
            rss_mb=50,
        )

    async def discard(self) -> None:
        """Nothing is kept warm."""

    async def serve(self, artifact: str | None) -> None:
        if self._began and artifact == self._active:
            return
        if artifact is not None:
            self._slots.verify(artifact)
        self._began, self._active = True, artifact
        self._world.note("serve", artifact)

    def _behaves(self) -> bytes:
        assert self._active is not None
        return self._of(self._active)

    def _of(self, artifact: str) -> bytes:
        path = self._slots.folder(artifact) / "model.onnx"
        return path.read_bytes().rstrip(b".")


class _Killer:
    def __init__(self, kill: Kill | None) -> None:
        self._kill = kill
        self._seen = 0

    def at(self, record: Record, moment: Moment) -> bool:
        kill = self._kill
        if kill is None or (record.state, moment) != (kill.state, kill.moment):
            return False
        self._seen += 1
        return self._seen == kill.nth

    def end_if(self, record: Record, moment: Moment) -> None:
        if self.at(record, moment):
            os.kill(os.getpid(), signal.SIGKILL)


class TornSlots(Slots):
    """Slots whose record may be written by half: the copy, but not the record."""

    def __init__(self, state: Path, killer: _Killer) -> None:
        super().__init__(state, SystemClock(), Opener("device-1", state / "seal.key"))
        self._killer = killer

    def save(self, record: Record) -> None:
        if self._killer.at(record, "torn"):
            write(self._state / COPY, record.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(record)


def main(folder: Path, kill: Kill | None) -> None:
    """Run the machine until the assignment is settled, or until killed."""
    asyncio.run(_run(World(folder), _Killer(kill)))


async def _run(world: World, killer: _Killer) -> None:
    world.note("boot")
    settled = asyncio.Event()
    envelope = (world.folder / "assignment").read_bytes()

    def rested(record: Record) -> None:
        killer.end_if(record, "acted")
        if record.state is State.IDLE and record.envelope == digest(envelope):
            settled.set()

    machine = Machine(
        slots=TornSlots(world.state, killer),
        trust=FolderTrust(world),
        fetcher=FolderFetcher(world),
        runtime=FolderRuntime(world),
        clock=SystemClock(),
        draw=lambda: 0.0,
        capabilities=CAPABILITIES,
        persisted=lambda record, _why: killer.end_if(record, "persisted"),
        acted=rested,
    )
    machine.restore()
    running = asyncio.create_task(machine.run())
    machine.offer(envelope)
    async with asyncio.timeout(PATIENCE_S):
        await settled.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
