"""A fleet that exists only in numbers, to plan rollouts on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from quarterdeck_controller.monitor.compare import Share
from quarterdeck_controller.rollout.gate import Evidence
from quarterdeck_controller.rollout.plan import Assign, Plan, plan
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.view import DeviceView
from quarterdeck_controller.store.records import (
    Member,
    Rollout,
    RolloutState,
    Runs,
    Standing,
)
from quarterdeck_shared.assignment import Target
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.index import digest

START = datetime(2026, 5, 4, 8, tzinfo=UTC)
ARM, X86 = "board-arm64", "gateway-x86"
CAPABILITIES = Capabilities(
    isa=("x86-64",),
    memory_mb=1024,
    cpus=2,
    runtime="1.20.0",
    providers=("CPUExecutionProvider",),
)


def runs(release: str, device_class: str) -> Runs:
    """Return an artifact as if ``release`` had been published for the class."""
    model, version = release.split("@")
    return Runs(
        release,
        Target(
            path=f"classes/{device_class}/{model}-{version}.idx",
            length=100,
            sha256=digest(f"{device_class} {release}".encode()),
        ),
    )


def standing(device: str, active: Runs | None, **changes: object) -> Standing:
    """Return a report of a device that is at rest with ``active``."""
    at_rest = Standing(
        device=device,
        active_release=active.release if active else None,
        active_digest=active.target.sha256 if active else None,
        previous_release=None,
        previous_digest=None,
        update_sequence=0,
        update_digest=None,
        outcome=None,
        code=None,
        detail="",
        settled_at=START,
        capabilities=CAPABILITIES,
    )
    return replace(at_rest, **changes)  # type: ignore[arg-type]  # any field


def idle(
    device: str,
    device_class: str = X86,
    *,
    release: str | None = "m@1",
    online: bool = True,
) -> DeviceView:
    """Return a device that runs ``release`` and that no rollout has touched."""
    active = runs(release, device_class) if release else None
    return DeviceView(
        id=device,
        device_class=device_class,
        online_since=START if online else None,
        standing=standing(device, active),
        running=active,
        desired=active.target.sha256 if active else None,
    )


@dataclass
class World:
    """A rollout and its fleet. Devices answer only when they are told to."""

    policy: Policy
    devices: dict[str, DeviceView]
    release: str = "m@2"
    classes: tuple[str, ...] = (ARM, X86)
    now: datetime = START
    rollout: Rollout = field(init=False)
    sequences: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rollout = Rollout(
            id=7,
            release=self.release,
            selector="all",
            policy="",
            state=RolloutState.RUNNING,
            created_at=self.now,
            changed_at=self.now,
        )

    @classmethod
    def of(cls, policy: Policy, fleet: Iterable[DeviceView]) -> "World":
        """Return a world of ``fleet``."""
        return cls(policy, {view.id: view for view in fleet})

    @property
    def variants(self) -> dict[str, Runs]:
        """The rollout's release, by class."""
        return {name: runs(self.release, name) for name in self.classes}

    @property
    def touched(self) -> list[DeviceView]:
        """Devices that have an assignment of the rollout."""
        return [view for view in self.devices.values() if view.member]

    def plan(self) -> Plan:
        """Return the plan at this moment."""
        fleet = tuple(self.devices[key] for key in sorted(self.devices))
        return plan(self.policy, self.rollout, self.variants, fleet, self.now)

    def tick(self, seconds: float = 0) -> Plan:
        """Let time pass, plan once, and carry it out."""
        self.now += timedelta(seconds=seconds)
        decided = self.plan()
        self.apply(decided)
        return decided

    def settle(self) -> None:
        """Plan and carry out until nothing more is to be done at this moment."""
        for _ in range(100):
            if self.tick().empty:
                return
        raise AssertionError("planning never came to rest")

    def apply(self, decided: Plan) -> None:
        """Carry ``decided`` out."""
        for assign in decided.assign:
            self._assign(assign)
        for device in decided.withdraw:
            self.devices[device] = replace(self.devices[device], desired=None)
        if decided.after != decided.before:
            self.told.append(f"{decided.after.state}: {'; '.join(decided.reasons)}")
        revision = decided.before.revision + (not decided.empty)
        self.rollout = replace(decided.after, revision=revision)

    def _assign(self, assign: Assign) -> None:
        view = self.devices[assign.device]
        sequence = self.sequences.get(assign.device, 0) + 1
        self.sequences[assign.device] = sequence
        if assign.undo:
            assert view.member is not None
            member = replace(view.member, undo_sequence=sequence)
        else:
            member = Member(
                rollout=self.rollout.id,
                device=assign.device,
                wave=assign.wave,
                target_digest=assign.runs.target.sha256,
                sequence=sequence,
                assigned_at=self.now,
                previous=assign.previous,
            )
        self.devices[assign.device] = replace(
            view, member=member, desired=assign.runs.target.sha256
        )

    def put(self, view: DeviceView) -> None:
        """Enrol or replace a device."""
        self.devices[view.id] = view

    def commit(self, *ids: str) -> None:
        """Have devices commit what they were last assigned; all when none is named."""
        for view in self._chosen(ids):
            wanted = self._wanted(view)
            if wanted is not None:
                self._answer(view, wanted, "committed", None)

    def fail(self, *ids: str, code: Code = Code.GOLDEN_FAILED) -> None:
        """Have devices roll the new release back by themselves."""
        for view in self._chosen(ids):
            self._answer(view, view.running, "rolled_back", code)

    def defer(self, *ids: str) -> None:
        """Have devices put it off."""
        for view in self._chosen(ids):
            self._answer(view, view.running, "deferred", Code.DISK_FULL)

    def go(self, *ids: str, online: bool) -> None:
        """Take devices on or off line."""
        for view in self._chosen(ids):
            since = (view.online_since or self.now) if online else None
            self.devices[view.id] = replace(view, online_since=since)

    def measure(self, *, old: Share, new: Share) -> None:
        """Have every touched device measure these."""
        for view in self.touched:
            self.devices[view.id] = replace(view, old=Evidence(old), new=Evidence(new))

    def _chosen(self, ids: Sequence[str]) -> list[DeviceView]:
        return [self.devices[key] for key in ids] if ids else self.touched

    def _wanted(self, view: DeviceView) -> Runs | None:
        if view.member is None:
            return None
        target = self.variants.get(view.device_class)
        if target is not None and view.desired == target.target.sha256:
            return target
        return view.member.previous

    def _answer(
        self, view: DeviceView, active: Runs | None, outcome: str, code: Code | None
    ) -> None:
        self.devices[view.id] = replace(
            view,
            running=active,
            standing=standing(
                view.id,
                active,
                update_sequence=self.sequences.get(view.id, 0),
                update_digest=view.desired,
                outcome=outcome,
                code=code,
                settled_at=self.now,
            ),
        )
