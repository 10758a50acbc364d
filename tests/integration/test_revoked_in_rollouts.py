"""A rollout goes on as if a device that was revoked had never been."""

from pathlib import Path

import pytest

from quarterdeck_controller.fleet.listener import Listener
from quarterdeck_controller.identity.revocation import revoke
from quarterdeck_controller.store.records import RolloutState
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.fleet import Core, FakeDevice


class Watched:
    """A core whose devices say what they do, at once."""

    def __init__(self, path: Path) -> None:
        self.core = Core(path / "db")
        self.core.releases("m@1")
        bus = MemoryBus(MemoryBroker(), "controller")
        self.listener = Listener(bus, self.core.store, self.core.clock)
        self.devices = {it: FakeDevice(it) for it in ("a", "b")}
        self.core.enrol(*self.devices)
        for device in self.devices.values():
            self.tell(device.birth(), device.says())

    def tell(self, *messages: Message) -> None:
        now = self.core.clock.now()
        self.listener._writer.write([(it, now) for it in messages])

    def commits(self, name: str) -> None:
        assigned = self.core.assigned(name)
        assert assigned is not None
        self.devices[name].commit(assigned)
        self.tell(self.devices[name].says())

    def revoked(self, *names: str) -> None:
        with self.core.store.write() as records:
            for name in names:
                revoke(records, name, "stolen", now=self.core.clock.now())


async def test_a_wave_does_not_wait_for_a_device_that_was_revoked(
    tmp_path: Path,
) -> None:
    it = Watched(tmp_path)
    number = it.core.create("m@1", waves=("100%",)).id
    it.core.rounds()
    it.commits("a")
    it.core.rounds(10)
    assert it.core.rollout(number).state is RolloutState.RUNNING

    it.revoked("b")

    for _ in range(4):
        it.core.rounds(10)
    assert it.core.rollout(number).state is RolloutState.PROMOTED
    withdrawn = it.core.assigned("b")
    assert withdrawn is not None
    assert withdrawn.withdrawn
    it.core.close()


async def test_a_later_wave_leaves_out_a_device_that_was_revoked(
    tmp_path: Path,
) -> None:
    it = Watched(tmp_path)
    number = it.core.create("m@1", waves=("1", "100%")).id
    it.core.rounds()
    (first,) = it.core.assigned_devices()
    (later,) = it.devices.keys() - {first}
    it.commits(first)
    it.core.rounds()

    it.revoked(later)

    for _ in range(10):
        it.core.rounds(10)
    assert it.core.rollout(number).state is RolloutState.PROMOTED
    assert it.core.assigned(later) is None
    it.core.close()


async def test_a_device_that_was_revoked_is_assigned_nothing(tmp_path: Path) -> None:
    it = Watched(tmp_path)
    it.revoked("b")

    it.core.create("m@1", waves=("100%",))
    it.core.rounds()

    assert it.core.assigned_devices() == ["a"]
    it.core.close()


async def test_a_rollout_to_none_but_revoked_devices_is_refused(tmp_path: Path) -> None:
    it = Watched(tmp_path)
    it.revoked("a", "b")

    with pytest.raises(RejectedError, match="only revoked devices") as refusal:
        it.core.create("m@1")

    assert refusal.value.code is Code.NOT_ALLOWED
    it.core.close()
