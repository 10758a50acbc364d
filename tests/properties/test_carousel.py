"""The broadcast delivers everything, to everybody, and nothing in vain."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.transfer.carousel import (
    ABSENT_S,
    COALESCE_S,
    LAGGARD_S,
    LOSS_S,
    SILENT_S,
    Carousel,
    Want,
    Why,
)

STEP_S = 0.02
STREAM = 7
BEGAN = 100.0


@dataclass
class Device:
    """A device as PROTOCOL.md section 7 describes it, without a disk."""

    name: str
    missing: set[int]
    joins_at: float = 0.0
    credit: int = 8
    latency_s: float = 0.01
    spacing_s: float = 0.0
    loses: Callable[[], bool] = lambda: False
    stalls_at: float = float("inf")
    seen: int = 0
    said_seen: int = 0
    said_at: float = -1e9
    received: int = 0
    duplicates: int = 0
    on_their_way: list[tuple[float, int, int]] = field(default_factory=list)
    done: bool = False

    def receive(self, now: float) -> None:
        due = [frame for frame in self.on_their_way if frame[0] <= now]
        self.on_their_way = [frame for frame in self.on_their_way if frame[0] > now]
        for _, published, number in due:
            self.seen = max(self.seen, published)
            self.received += 1
            self.duplicates += number not in self.missing
            self.missing.discard(number)

    def report(self, now: float) -> Want | None:
        half = self.seen - self.said_seen >= self.credit // 2
        if self.done or not (half or now - self.said_at >= 1.0 or not self.missing):
            return None
        self.said_seen, self.said_at = self.seen, now
        self.done = not self.missing
        return Want(bits(self.missing), self.seen, STREAM, self.credit)


def bits(numbers: set[int]) -> int:
    return sum(1 << number for number in numbers)


@dataclass
class Fleet:
    """A carousel and its devices, moved on step by step."""

    devices: list[Device]
    carousel: Carousel = field(default_factory=lambda: Carousel(STREAM))
    now: float = BEGAN
    published: list[int] = field(default_factory=list)

    def run(self, seconds: float) -> bool:
        """Return whether everybody who lives has everything within ``seconds``."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            here = [
                device
                for device in self.devices
                if device.joins_at <= self.now - BEGAN < device.stalls_at
            ]
            for device in here:
                device.receive(self.now)
                if (want := device.report(self.now)) is not None:
                    self.carousel.hear(device.name, want, self.now)
            self.publish(here)
            living = [d for d in self.devices if d.stalls_at == float("inf")]
            if all(device.done for device in living):
                return True
        return False

    def publish(self, here: list[Device]) -> None:
        for number in self.carousel.plan(self.now, 4).numbers:
            self.carousel.sent(number, self.now)
            self.published.append(number)
            for device in here:
                if not device.done and not device.loses():
                    arrives_at = self.now + device.latency_s
                    if device.on_their_way:
                        last_at = device.on_their_way[-1][0]
                        arrives_at = max(arrives_at, last_at + device.spacing_s)
                    frame = (arrives_at, self.carousel.published, number)
                    device.on_their_way.append(frame)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    count = draw(st.integers(1, 40))
    rng = random.Random(draw(st.integers(0, 1 << 30)))

    def lossy(share: float) -> Callable[[], bool]:
        return lambda: rng.random() < share

    devices = [
        Device(
            f"device-{n}",
            draw(st.sets(st.integers(0, count - 1), min_size=1)),
            joins_at=draw(st.sampled_from([0.0, 0.05, 0.5, 3.0])),
            credit=draw(st.integers(1, 16)),
            latency_s=draw(st.sampled_from([0.0, 0.01, 0.3])),
            loses=lossy(draw(st.sampled_from([0.0, 0.05, 0.5]))),
        )
        for n in range(draw(st.integers(1, 5)))
    ]
    return Fleet(devices)


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_every_device_that_keeps_reporting_gets_everything(fleet: Fleet) -> None:
    assert fleet.run(600)


@settings(max_examples=60, deadline=None)
@given(fleets(), st.integers(1, 60))
def test_nothing_is_published_that_nobody_said_it_misses(
    fleet: Fleet, turns: int
) -> None:
    for _ in range(turns):
        fleet.run(STEP_S)
        reported = 0
        for listener in fleet.carousel._listeners.values():
            reported |= listener.missing

        plan = fleet.carousel.plan(fleet.now, 4)

        assert all(reported >> number & 1 for number in plan.numbers)


@settings(max_examples=60, deadline=None)
@given(fleets(), st.integers(1, 200))
def test_no_device_that_keeps_up_has_more_on_its_way_than_its_credit(
    fleet: Fleet, turns: int
) -> None:
    for device in fleet.devices:
        device.joins_at = min(device.joins_at, 0.05)
    for _ in range(turns):
        fleet.run(STEP_S)

        for device in fleet.devices:
            told = fleet.carousel._listeners.get(device.name)
            if told is not None and not told.lags(fleet.now):
                assert len(device.on_their_way) <= device.credit


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 6), st.integers(2, 16), st.floats(0, COALESCE_S)
)
def test_devices_that_start_together_share_one_copy(
    count: int, devices: int, credit: int, spread_s: float
) -> None:
    fleet = Fleet(
        [
            Device(
                f"device-{n}",
                set(range(count)),
                joins_at=n * spread_s * 0.5 / devices,
                credit=credit,
            )
            for n in range(devices)
        ]
    )

    assert fleet.run(60)

    assert fleet.published == list(range(count))
    assert all(device.duplicates == 0 for device in fleet.devices)


def test_one_that_joins_late_gets_the_rest_of_the_round_and_then_the_start() -> None:
    early = Device("early", set(range(100)))
    late = Device("late", set(range(100)), joins_at=0.3)
    fleet = Fleet([early, late])

    assert fleet.run(60)

    assert early.duplicates == 0
    assert late.duplicates == 0
    assert len(fleet.published) < 200


def test_a_device_that_stalls_holds_the_others_up_once_and_not_for_long() -> None:
    alone = Fleet([Device("alone", set(range(400)))])
    dead = Device("dead", set(range(400)), stalls_at=0.2)
    fleet = Fleet([Device("healthy", set(range(400))), dead])

    assert alone.run(60)
    assert fleet.run(60)

    assert fleet.now - alone.now < LAGGARD_S + 0.2


def test_a_slow_device_is_left_behind_and_repaired_later() -> None:
    slow = Device("slow", set(range(200)), credit=4, latency_s=1.5)
    quick = Device("quick", set(range(200)), credit=16)
    fleet = Fleet([slow, quick])

    assert fleet.run(300)

    assert len(fleet.published) <= 2 * 200


def test_what_the_last_frames_lost_is_sent_again_after_a_while() -> None:
    carousel = Carousel(STREAM)
    carousel.hear("device", Want(0b11, 0, STREAM, 8), 0.0)
    at = COALESCE_S
    for number in carousel.plan(at, 8).numbers:
        carousel.sent(number, at)

    carousel.hear("device", Want(0b10, 1, STREAM, 8), at + 1)
    early = carousel.plan(at + 1, 8)
    carousel.hear("device", Want(0b10, 1, STREAM, 8), at + 1 + LOSS_S + 0.1)
    later = carousel.plan(at + 1 + LOSS_S + 0.1, 8)

    assert early.why is Why.NOTHING_MISSED
    assert later.numbers == (1,)


def test_a_very_slow_link_is_not_buried_under_repeats() -> None:
    slow = Device("slow", set(range(60)), credit=8, latency_s=4.0, spacing_s=4.0)
    fleet = Fleet([slow])

    assert fleet.run(600)

    assert len(fleet.published) <= 60 + 3 * slow.credit


def test_a_device_that_starts_again_is_served_at_once() -> None:
    carousel = Carousel(STREAM)
    carousel.hear("device", Want(0b1111, 0, STREAM, 2), 0.0)
    for number in carousel.plan(COALESCE_S, 8).numbers:
        carousel.sent(number, COALESCE_S)
    carousel.hear("device", Want(0b1110, 1, STREAM, 2), 0.2)

    carousel.hear("device", Want(0b1110, 0, 0, 2), 0.3)

    assert carousel.plan(0.3, 8).numbers == (2, 3)


def test_an_older_report_that_comes_twice_changes_nothing() -> None:
    carousel = Carousel(STREAM)
    carousel.hear("device", Want(0b1111, 0, STREAM, 8), 0.0)
    for number in carousel.plan(COALESCE_S, 8).numbers:
        carousel.sent(number, COALESCE_S)
    carousel.hear("device", Want(0b1000, 3, STREAM, 8), 0.2)

    carousel.hear("device", Want(0b1110, 1, STREAM, 8), 0.3)

    assert carousel.plan(0.3, 8).numbers == ()


def test_a_count_of_an_earlier_controller_is_not_believed() -> None:
    carousel = Carousel(STREAM)

    carousel.hear("device", Want(0b1, 900, STREAM + 1, 8), 0.0)

    assert carousel.plan(COALESCE_S, 8).numbers == (0,)


def test_a_chunk_that_does_not_exist_is_asked_for_in_vain() -> None:
    carousel = Carousel(STREAM)
    carousel.hear("device", Want(1 << 5000, 0, STREAM, 8), 0.0)

    carousel.absent(5000, 0.0)

    assert carousel.listeners == 0


def test_a_chunk_that_was_not_there_is_looked_for_again_after_a_while() -> None:
    carousel = Carousel(STREAM)
    asked = Want(0b1, 0, STREAM, 8)
    looked_at = []

    for second in range(4 * int(ABSENT_S)):
        carousel.hear("device", asked, float(second))
        for number in carousel.plan(second + COALESCE_S, 8).numbers:
            carousel.absent(number, float(second))
            looked_at.append(second)

    assert looked_at == [0, ABSENT_S, 2 * ABSENT_S, 3 * ABSENT_S]


def test_one_that_says_nothing_for_long_is_forgotten() -> None:
    carousel = Carousel(STREAM)
    carousel.hear("device", Want(0b1, 0, STREAM, 8), 0.0)

    plan = carousel.plan(SILENT_S + 1, 8)

    assert plan.numbers == ()
    assert carousel.listeners == 0
