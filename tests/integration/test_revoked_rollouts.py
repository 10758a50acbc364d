"""A revoked release stops its rollouts and is taken out of the broker."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from quarterdeck_controller.fleet.listener import Listener
from quarterdeck_controller.rollout.catalog import PlainRevoked
from quarterdeck_controller.rollout.execute import command
from quarterdeck_controller.rollout.revoked import decide
from quarterdeck_controller.rollout.state import Step
from quarterdeck_controller.store.records import Assigned, RolloutState
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from tests.support.fleet import Core, FakeDevice
from tests.support.rollouts import ARM, START, X86


@pytest.fixture
def core(tmp_path: Path) -> Core:
    core = Core(tmp_path / "db")
    core.releases("m@1", "m@2", classes=(X86, ARM))
    core.enrol("x0", "x1")
    core.enrol("a0", device_class=ARM)
    return core


def assigned(core: Core, device: str) -> Assigned:
    found = core.assigned(device)
    assert found is not None
    return found


def revoke(core: Core, release: str, *classes: str) -> None:
    core.catalog.revoke(release, "wrong labels", core.clock.now(), *classes)
    core.rounds(1)


def test_a_running_rollout_of_a_revoked_release_is_rolled_back(core: Core) -> None:
    core.create("m@2", waves=("100%",))
    core.rounds()
    assert core.assigned_devices() == ["a0", "x0", "x1"]

    revoke(core, "m@2")

    assert core.rollout().state in (
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLED_BACK,
    )
    assert core.assigned_devices() == []
    assert assigned(core, "x0").withdrawn
    with core.store.read() as records:
        told = [it.reason for it in records.decisions.of(1)]
    assert any("m@2 was revoked for" in it and "wrong labels" in it for it in told)
    core.close()


REVOKED = PlainRevoked("m@2", X86, "wrong labels", START)


@pytest.mark.parametrize(
    ("state", "whole", "step"),
    [
        (RolloutState.PLANNED, True, Step.ABORT),
        (RolloutState.RUNNING, True, Step.ROLL_BACK),
        (RolloutState.PAUSED, True, Step.ROLL_BACK),
        (RolloutState.ROLLING_BACK, True, None),
        (RolloutState.PLANNED, False, None),
        (RolloutState.RUNNING, False, Step.PAUSE),
        (RolloutState.PAUSED, False, None),
        (RolloutState.ROLLING_BACK, False, None),
    ],
)
@pytest.mark.parametrize("release", ["m@2", "m@3"])
def test_what_is_done_depends_on_how_far_the_rollout_is(
    core: Core, state: RolloutState, step: Step | None, release: str, *, whole: bool
) -> None:
    rollout = replace(core.create("m@2"), state=state, release=release)

    decided = decide(rollout, {"digest": REVOKED}, whole=whole)

    assert decided == (step if release == "m@2" else None)
    core.close()


def test_a_rollout_of_a_release_revoked_for_one_class_waits_for_a_person(
    core: Core,
) -> None:
    core.create("m@2", waves=("100%",))
    core.rounds()

    revoke(core, "m@2", ARM)

    assert core.rollout().state is RolloutState.PAUSED
    assert core.assigned_devices() == ["x0", "x1"]
    with core.store.write() as records:
        command(records, 1, Step.RESUME, "the others are fine", core.clock.now())
    core.rounds(1)
    assert core.rollout().state is RolloutState.RUNNING
    core.close()


def test_the_assignments_of_a_finished_rollout_are_withdrawn(core: Core) -> None:
    core.create("m@1", waves=("100%",))
    core.rounds()
    with core.store.write() as records:
        command(records, 1, Step.ABORT, "enough", core.clock.now())

    revoke(core, "m@1")

    assert core.rollout().state is RolloutState.ABORTED
    assert core.assigned_devices() == []
    core.close()


def test_what_was_revoked_while_nobody_served_is_taken_back_at_the_start(
    core: Core,
) -> None:
    core.create("m@2", waves=("100%",))
    core.rounds()
    core.close()
    core.catalog.revoke("m@2", "wrong labels", core.clock.now())

    core.open()
    core.rounds()

    assert core.assigned_devices() == []
    core.close()


def all_run(core: Core, listener: Listener, release: str) -> dict[str, FakeDevice]:
    """Have every device run ``release``, by a rollout that is promoted."""
    devices = {name: FakeDevice(name) for name in ("x0", "x1")}
    devices["a0"] = FakeDevice("a0", ARM)
    tell(core, listener, *(it.birth() for it in devices.values()))
    tell(core, listener, *(it.says() for it in devices.values()))
    number = core.create(release, waves=("100%",)).id
    core.rounds()
    for device in devices.values():
        device.commit(assigned(core, device.id))
        tell(core, listener, device.says())
    for _ in range(3):
        core.rounds(10)
    assert core.rollout(number).state is RolloutState.PROMOTED
    return devices


def tell(core: Core, listener: Listener, *messages: Message) -> None:
    listener._writer.write([(it, core.clock.now()) for it in messages])


@pytest.mark.parametrize("revoked", [False, True])
def test_a_rollback_never_leads_to_a_revoked_release(
    core: Core, *, revoked: bool
) -> None:
    listener = Listener(MemoryBus(MemoryBroker(), "c"), core.store, core.clock)
    devices = all_run(core, listener, "m@1")
    number = core.create("m@2", waves=("100%",)).id
    core.rounds()
    for device in devices.values():
        device.commit(assigned(core, device.id))
        tell(core, listener, device.says())
    if revoked:
        revoke(core, "m@1")

    with core.store.write() as records:
        command(records, number, Step.ROLL_BACK, "back", core.clock.now())
    core.rounds(1)

    leads_to = {it.runs.release for it in map(partial(assigned, core), devices)}
    assert leads_to == ({"m@2"} if revoked else {"m@1"})
    core.close()


def test_another_releases_rollout_goes_on(core: Core) -> None:
    core.create("m@2", waves=("100%",))
    core.rounds()

    revoke(core, "m@1")

    assert core.rollout().state is RolloutState.RUNNING
    assert core.assigned_devices() == ["a0", "x0", "x1"]
    core.close()
