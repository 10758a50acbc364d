"""Attacks on a device's idea of the time, and clocks that are wrong by themselves.

The judgement, the repository and what tells the time are the real ones; the attacker
holds the broker, and in some tests keys.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from securesystemslib.signer import CryptoSigner

from quarterdeck_agent.update.floor import FloorFile
from quarterdeck_agent.update.trust import Trust
from quarterdeck_controller.repository.timekeeper import Timekeeper
from quarterdeck_shared.codes import Code
from quarterdeck_shared.signed_time import PAYLOAD_TYPE, SignedTime
from tests.support.attacks import BUILT, HostileBroker, World, refusal, sealed
from tests.support.releases import ManualClock

Tell = Callable[[str], bytes | None]
NEVER = datetime(2036, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Hourglass(HostileBroker):
    """Serves the repository, and the time as a test wants."""

    def __init__(self, world: World, tell: Tell) -> None:
        super().__init__(world.repository.read)
        self.tell = tell
        self._files = self._read
        self._read = self._either

    def _either(self, name: str) -> bytes | None:
        if name.startswith("time/"):
            return self.tell(name.removeprefix("time/"))
        return self._files(name)


class Device:
    """A device with a clock of its own, and what it noticed."""

    def __init__(self, world: World, tell: Tell, clock: ManualClock) -> None:
        self.noticed: list[Code] = []
        self.world = world
        self.hourglass = Hourglass(world, tell)
        self.trust = Trust(
            world.state(),
            device="cam-1",
            device_class="cam",
            root=world.root,
            fetcher=self.hourglass,
            clock=clock,
            built=BUILT,
            notice=lambda code, _detail: self.noticed.append(code),
        )

    @property
    def floor(self) -> datetime:
        return FloorFile(self.world.state()).load(BUILT).time


def clock_at(time: datetime) -> ManualClock:
    clock = ManualClock()
    clock.time = time
    return clock


def honest(world: World) -> Tell:
    return Timekeeper(world.repository, world.clock).answer


def told(world: World, time: datetime, role: str = "time") -> Tell:
    """Return an answer of ``time`` to any question, signed by the key of ``role``."""

    def tell(nonce: str) -> bytes:
        payload = SignedTime(nonce=nonce, time=time).encode()
        return sealed(payload, world.key(role), kind=PAYLOAD_TYPE)

    return tell


def test_a_device_without_a_clock_learns_the_time(world: World) -> None:
    world.clock.forward(hours=5)
    device = Device(world, honest(world), clock_at(EPOCH))

    device.trust.accept(world.assign(1))

    assert device.floor == world.clock.now()
    assert device.noticed == []


def test_signed_time_unmasks_frozen_metadata_on_a_device_without_a_clock(
    world: World,
) -> None:
    envelope = world.assign(1, expires=NEVER)
    world.clock.forward(days=2)  # the timestamp has expired, the snapshot has not
    device = Device(world, honest(world), clock_at(EPOCH))

    assert refusal(device.trust, envelope) is Code.METADATA_EXPIRED
    assert device.floor == world.clock.now()


def test_signed_time_past_everything_that_is_served_refuses_and_moves_nothing(
    world: World,
) -> None:
    envelope = world.assign(1, expires=NEVER)
    world.clock.forward(days=400)
    device = Device(world, honest(world), clock_at(EPOCH))
    issued = BUILT + timedelta(days=30)

    assert refusal(device.trust, envelope) is Code.METADATA_EXPIRED
    assert device.floor == issued


def test_an_assignment_that_expired_by_the_signed_time_is_refused(
    world: World,
) -> None:
    envelope = world.assign(1, expires=world.clock.now() + timedelta(hours=1))
    world.clock.forward(hours=2)
    device = Device(world, honest(world), clock_at(EPOCH))

    assert refusal(device.trust, envelope) is Code.ASSIGNMENT_EXPIRED


@pytest.mark.parametrize("days", [-365, -2, 0])
def test_a_clock_that_is_behind_is_held_up_by_signed_time(
    world: World, days: int
) -> None:
    behind = clock_at(world.clock.now() + timedelta(days=days))
    world.clock.forward(hours=3)
    device = Device(world, honest(world), behind)

    assert device.trust.accept(world.assign(1)).assignment.sequence == 1
    assert device.floor == world.clock.now()


def test_a_clock_a_year_ahead_refuses_and_leaves_no_trace(world: World) -> None:
    clock = clock_at(world.clock.now() + timedelta(days=365))
    device = Device(world, honest(world), clock)
    assert refusal(device.trust, world.assign(1, expires=NEVER)) is (
        Code.METADATA_EXPIRED
    )
    assert device.floor == BUILT

    clock.time = world.clock.now()

    assert device.trust.accept(world.assign(2)).assignment.sequence == 2


def test_a_clock_set_back_a_year_after_an_update_brings_nothing_old_back(
    world: World,
) -> None:
    old = world.now_served()
    envelope = world.assign(2, expires=NEVER)
    world.clock.forward(days=2)
    world.repository.renew(world.clock.now())
    clock = clock_at(world.clock.now())
    device = Device(world, honest(world), clock)
    device.trust.accept(world.assign(1))
    floor = device.floor
    clock.time -= timedelta(days=365)
    device.hourglass._files = old.get

    assert refusal(device.trust, envelope) is Code.METADATA_ROLLBACK
    assert device.floor == floor


def test_no_answer_is_no_error(world: World) -> None:
    device = Device(world, lambda _nonce: None, clock_at(world.clock.now()))

    assert device.trust.accept(world.assign(1)).assignment.sequence == 1
    assert device.noticed == []


def test_a_replayed_answer_is_noticed_and_does_not_count(world: World) -> None:
    answers: list[bytes] = []
    tell = honest(world)

    def record(nonce: str) -> bytes | None:
        answers.append(cast("bytes", tell(nonce)))
        return answers[0]

    device = Device(world, record, clock_at(EPOCH))
    device.trust.accept(world.assign(1))
    before = device.floor
    world.clock.forward(hours=6)

    device.trust.accept(world.assign(2))

    assert device.noticed == [Code.TIME_INVALID]
    assert device.floor == before


def test_an_answer_to_another_device_is_noticed_and_does_not_count(
    world: World,
) -> None:
    device = Device(world, lambda _: honest(world)("ab" * 16), clock_at(EPOCH))

    device.trust.accept(world.assign(1))

    assert device.noticed == [Code.TIME_INVALID]


@pytest.mark.parametrize(
    "role", ["timestamp", "snapshot", "targets", "director", "class-cam"]
)
def test_time_signed_by_another_role_is_noticed_and_does_not_count(
    world: World, role: str
) -> None:
    later = world.clock.now() + timedelta(hours=9)
    device = Device(world, told(world, later, role), clock_at(EPOCH))

    device.trust.accept(world.assign(1))

    assert device.noticed == [Code.TIME_INVALID]
    assert device.floor < later


def test_time_signed_by_a_key_that_nobody_knows_does_not_count(world: World) -> None:
    thief = CryptoSigner.generate_ed25519()

    def tell(nonce: str) -> bytes:
        payload = SignedTime(nonce=nonce, time=NEVER).encode()
        return sealed(payload, thief, kind=PAYLOAD_TYPE)

    device = Device(world, tell, clock_at(EPOCH))
    device.trust.accept(world.assign(1))

    assert device.noticed == [Code.TIME_INVALID]
    assert device.floor < NEVER


def test_a_stolen_time_key_cannot_move_the_time_past_what_others_signed(
    world: World,
) -> None:
    device = Device(world, told(world, NEVER), clock_at(EPOCH))
    issued = world.clock.now()

    assert refusal(device.trust, world.assign(1, expires=NEVER)) is (
        Code.METADATA_EXPIRED
    )
    assert device.floor == issued
    device.hourglass.tell = honest(world)
    assert device.trust.accept(world.assign(2)).assignment.sequence == 2


def test_a_stolen_time_key_cannot_move_the_time_back(world: World) -> None:
    world.clock.forward(hours=4)
    clock = clock_at(world.clock.now())
    device = Device(world, honest(world), clock)
    device.trust.accept(world.assign(1))
    floor = device.floor
    device.hourglass.tell = told(world, EPOCH)

    device.trust.accept(world.assign(2))

    assert device.floor == floor


def test_a_replaced_time_key_is_followed_by_the_controller(world: World) -> None:
    keeper = Timekeeper(world.repository, world.clock)
    device = Device(world, keeper.answer, clock_at(EPOCH))
    device.trust.accept(world.assign(1))
    world.replace("time")
    world.clock.forward(hours=1)

    device.trust.accept(world.assign(2))

    assert device.noticed == []
    assert device.floor == world.clock.now()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", Code.MALFORMED),
        (b"{}", Code.MALFORMED),
        (b"[" * 2000, Code.MALFORMED),
        (b"x" * 2048, Code.MALFORMED),
        (b"x" * 2049, Code.TOO_LARGE),
        (b"x" * (1 << 20), Code.TOO_LARGE),
    ],
    ids=range(6),
)
def test_rubbish_for_the_time_is_noticed_and_does_not_count(
    world: World, answer: bytes, code: Code
) -> None:
    device = Device(world, lambda _: answer, clock_at(world.clock.now()))

    device.trust.accept(world.assign(1))

    assert device.noticed == [code]


def test_a_signed_answer_of_another_version_is_noticed(world: World) -> None:
    def tell(nonce: str) -> bytes:
        payload = {"v": 9, "nonce": nonce, "time": "2026-01-01T00:00:00Z"}
        key = world.key("time")
        return sealed(json.dumps(payload).encode(), key, kind=PAYLOAD_TYPE)

    device = Device(world, tell, clock_at(world.clock.now()))

    device.trust.accept(world.assign(1))

    assert device.noticed == [Code.VERSION_UNKNOWN]


def test_an_assignment_cannot_pass_for_the_time_nor_the_time_for_one(
    world: World,
) -> None:
    nonce = "cd" * 16
    device = Device(world, lambda _: world.assign(9), clock_at(EPOCH))
    answer = honest(world)(nonce)
    assert answer is not None

    device.trust.accept(world.assign(1))

    assert device.noticed == [Code.MALFORMED]
    assert refusal(device.trust, answer) is Code.MALFORMED
