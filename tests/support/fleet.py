"""A controller's core on a real database, with devices that answer as agents do."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from quarterdeck_controller.fleet.assignments import Assignments
from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.rollout.catalog import (
    MemoryCatalog,
    PlainIndex,
    PlainRelease,
    PlainVariant,
)
from quarterdeck_controller.rollout.create import create
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.reconcile import Reconciler
from quarterdeck_controller.store.records import Assigned, Rollout
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import Assignment
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Requirements
from quarterdeck_shared.reported import LastUpdate, Reported, SessionState, Slot
from quarterdeck_shared.telemetry.window import Window
from tests.support.rollouts import CAPABILITIES, START, X86, runs

PLAIN = Requirements(
    isa=("x86-64",), memory_mb=64, runtime="1.20", provider="CPUExecutionProvider"
)


@dataclass
class HandClock:
    """A clock that is set by hand."""

    at: datetime = START
    spent: float = 0.0

    def now(self) -> datetime:
        """Return the time it was set to."""
        return self.at

    def monotonic(self) -> float:
        """Return the seconds it was moved by."""
        return self.spent

    def move(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.at += timedelta(seconds=seconds)
        self.spent += seconds


def sign(assignment: Assignment) -> bytes:
    """Return the assignment's own bytes, as if they were signed."""
    return assignment.encode()


def release(name: str, classes: Iterable[str] = (X86,)) -> PlainRelease:
    """Return a release with a variant for each class."""
    variants = {}
    for device_class in classes:
        target = runs(name, device_class).target
        variants[device_class] = PlainVariant(target, target.sha256, PlainIndex(PLAIN))
    return PlainRelease(name, variants)


@dataclass
class Core:
    """Store, catalog, clock and the loop that moves rollouts, turned by hand."""

    path: Path
    bus: Bus | None = None
    clock: HandClock = field(default_factory=HandClock)
    catalog: MemoryCatalog = field(default_factory=MemoryCatalog)
    director: list[str] = field(default_factory=lambda: ["key-1"])

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Start, or start again after a kill."""
        self.store = Store.open(self.path)
        self.assignments = Assignments(
            self.store,
            self.bus,
            sign,
            self.clock,
            lifetime=timedelta(days=14),
            signed_by=lambda: self.director,
        )
        self.reconciler = Reconciler(
            self.store, self.catalog, self.assignments, self.clock
        )

    def close(self) -> None:
        """Stop."""
        self.store.close()

    def releases(self, *names: str, classes: Iterable[str] = (X86,)) -> None:
        """Publish releases."""
        for name in names:
            self.catalog.releases[name] = release(name, classes)

    def enrol(
        self, *ids: str, device_class: str = X86, tags: tuple[str, ...] = ()
    ) -> None:
        """Enrol devices."""
        with self.store.write() as records:
            for device in ids:
                enrol(records, device, device_class, tags=tags, now=self.clock.now())

    def create(self, name: str, selector: str = "all", **policy: object) -> Rollout:
        """Begin a rollout."""
        quick = {"soak_s": 10, "deadline_s": 60, "probation_s": 5, "hold_s": 100}
        with self.store.write() as records:
            return create(
                records,
                self.catalog,
                name,
                selector,
                Policy.parse({**quick, **policy}),
                now=self.clock.now(),
            )

    def rounds(self, seconds: float = 0) -> None:
        """Let time pass and plan until nothing moves."""
        self.clock.move(seconds)
        for _ in range(100):
            if not self.reconciler.round():
                return
        raise AssertionError("planning never came to rest")

    def rollout(self, number: int = 1) -> Rollout:
        """Return a rollout as stored."""
        with self.store.read() as records:
            found = records.rollouts.get(number)
        assert found is not None
        return found

    def assigned(self, device: str) -> Assigned | None:
        """Return a device's current assignment."""
        with self.store.read() as records:
            return records.assignments.get(device)

    def release_of(self, device: str) -> tuple[str, int] | None:
        """Return the release a device must run, and the sequence that says so."""
        found = self.assigned(device)
        return None if found is None else (found.runs.release, found.sequence)

    def assigned_devices(self) -> list[str]:
        """Return the devices that have an assignment."""
        with self.store.read() as records:
            return sorted(records.assignments.digests())


@dataclass
class FakeDevice:
    """What an agent says, without an agent."""

    id: str
    device_class: str = X86
    boot: int = 1000
    connection: int = 1
    step: int = 0
    sequence: int = 0
    active: Slot | None = None
    previous: Slot | None = None
    update: LastUpdate | None = None

    def birth(self, *, online: bool = True) -> Message:
        """Return its birth, or its will."""
        state = SessionState(online=online, boot=self.boot, connection=self.connection)
        return Message(topics.up(self.id, topics.UP_STATE), state.encode())

    def says(self, at: datetime = START) -> Message:
        """Return its reported state."""
        reported = Reported(
            device=self.id,
            device_class=self.device_class,
            agent="0.1.0",
            boot=self.boot,
            at=at,
            state="idle",
            step=self.step,
            sequence=self.sequence,
            active=self.active,
            previous=self.previous,
            update=self.update,
            capabilities=CAPABILITIES,
        )
        return Message(topics.up(self.id, topics.UP_REPORTED), reported.encode())

    def commit(self, assigned: Assigned) -> None:
        """Run what was assigned."""
        digest = assigned.runs.target.sha256
        if self.active is None or self.active.digest != digest:
            self.previous = self.active
        self.active = Slot(digest=digest, release=assigned.runs.release)
        self._answered(assigned, "committed", None)

    def refuse(self, assigned: Assigned, code: Code) -> None:
        """Refuse what was assigned."""
        self._answered(assigned, "refused", code)

    def _answered(self, assigned: Assigned, outcome: str, code: Code | None) -> None:
        self.step += 1
        self.sequence = assigned.sequence
        self.update = LastUpdate.model_validate(
            {
                "sequence": assigned.sequence,
                "digest": assigned.runs.target.sha256,
                "outcome": outcome,
                "code": code,
            }
        )

    def window(self, sequence: int, **changes: object) -> Window:
        """Return a telemetry window of what it runs."""
        prefix = self.active.digest[:16] if self.active else "0" * 16
        values: dict[str, object] = {
            "boot": self.boot,
            "sequence": sequence,
            "artifact": prefix,
            "started": START,
            "duration": timedelta(seconds=60),
            "requests": 100,
        }
        return Window(**{**values, **changes})  # type: ignore[arg-type]  # any field

    def telemetry(self, window: Window) -> Message:
        """Return the message that carries ``window``."""
        return Message(topics.up(self.id, topics.UP_TELEMETRY), window.encode())
