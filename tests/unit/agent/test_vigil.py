"""When signed metadata is refreshed without an assignment, and what its lack means."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import pytest

from quarterdeck_agent.update.vigil import AGAIN_S, EVERY_S, LONG_S, View, Vigil, judged
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from tests.support.brokers import until
from tests.support.releases import NOW, ManualClock

SPREAD_S = 300.0
LATE = TransientError(Code.TIMED_OUT, "no answer in time")


def view(
    *,
    failing_s: float = LONG_S,
    connected: bool = True,
    controller: bool = True,
    expired: bool = False,
) -> View:
    return View(failing_s, connected, controller, expired)


def test_metadata_that_cannot_be_had_for_long_looks_like_slow_retrieval() -> None:
    assert judged(view()) is Attack.SLOW_RETRIEVAL
    assert judged(view(failing_s=LONG_S - 1)) is None


def test_a_controller_that_is_away_withholds_nothing_until_metadata_expires() -> None:
    assert judged(view(controller=False)) is None
    assert judged(view(controller=False, expired=True)) is Attack.FREEZE


def test_without_a_broker_nobody_withholds_anything() -> None:
    for controller, expired in product((True, False), repeat=2):
        offline = view(connected=False, controller=controller, expired=expired)

        assert judged(offline) is None


@dataclass
class Watch:
    folder: Path
    fails: QuarterdeckError | None = None
    connected: bool = True
    controller: bool = True
    draw: float = 0.5
    refreshes: int = 0
    refused: list[Code] = field(default_factory=list)
    stale: list[Attack] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.vigil = Vigil(
            self,
            self.folder / "timestamp.json",
            clock=self.clock,
            spread_s=SPREAD_S,
            draw=lambda: self.draw,
            connected=lambda: self.connected,
            controller=lambda: self.controller,
            refused=lambda code, _detail: self.refused.append(code),
            stale=lambda attack, _detail: self.stale.append(attack),
        )

    def refresh(self) -> None:
        self.refreshes += 1
        if self.fails is not None:
            raise self.fails

    def cache(self, expires: datetime) -> bytes:
        text = f"{expires:%Y-%m-%dT%H:%M:%SZ}"
        data = json.dumps({"signed": {"expires": text}}).encode()
        (self.folder / "timestamp.json").write_bytes(data)
        return data

    async def pass_time(self, seconds: float) -> int:
        """Let time pass in one leap; return how many refreshes that led to."""
        before = self.refreshes
        self.clock.forward(seconds=seconds)
        running = asyncio.create_task(self.vigil.run())
        left = self.vigil._due_s - self.clock.monotonic()
        if left <= 0:
            await until(lambda: self.refreshes > before, "a refresh")
            await until(
                lambda: self.vigil._due_s > self.clock.monotonic(), "the next date"
            )
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return self.refreshes - before


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


async def test_news_is_followed_at_a_moment_of_ones_own(watch: Watch) -> None:
    watch.cache(NOW)
    watch.vigil.hear(b"something newer")

    assert await watch.pass_time(SPREAD_S * watch.draw - 1) == 0
    assert await watch.pass_time(1) == 1
    assert await watch.pass_time(SPREAD_S) == 0


async def test_what_is_known_already_is_no_news(watch: Watch) -> None:
    watch.vigil.hear(watch.cache(NOW))

    assert await watch.pass_time(SPREAD_S) == 0


async def test_a_flood_of_news_leads_to_one_refresh(watch: Watch) -> None:
    for number in range(1000):
        watch.vigil.hear(b"news %d" % number)

    assert await watch.pass_time(SPREAD_S) == 1


async def test_without_any_news_a_refresh_comes_every_half_day(watch: Watch) -> None:
    assert await watch.pass_time(EVERY_S * watch.draw) == 1
    assert await watch.pass_time(EVERY_S * 0.75 - 1) == 0
    assert await watch.pass_time(1) == 1


async def test_withheld_metadata_is_told_once_and_again_much_later(
    watch: Watch,
) -> None:
    watch.fails = LATE
    watch.cache(NOW + timedelta(days=30))
    watch.vigil.hear(b"news")
    await watch.pass_time(SPREAD_S)
    assert watch.stale == []

    while watch.clock.monotonic() < SPREAD_S + LONG_S + 600:
        await watch.pass_time(130)
    assert watch.stale == [Attack.SLOW_RETRIEVAL]
    assert watch.vigil.trouble is not None

    await watch.pass_time(AGAIN_S)
    assert watch.stale == [Attack.SLOW_RETRIEVAL] * 2


async def test_metadata_that_expires_meanwhile_is_a_freeze(watch: Watch) -> None:
    watch.fails = LATE
    watch.controller = False
    watch.cache(NOW + timedelta(seconds=EVERY_S))
    await watch.pass_time(EVERY_S)
    assert watch.stale == []

    await watch.pass_time(LONG_S)

    assert watch.stale == [Attack.FREEZE]


async def test_time_without_a_broker_does_not_count(watch: Watch) -> None:
    watch.fails, watch.connected = LATE, False
    await watch.pass_time(EVERY_S)
    watch.connected = True

    await watch.pass_time(LONG_S * 10)

    assert watch.stale == []


async def test_an_assignment_that_waits_for_metadata_has_it_looked_after(
    watch: Watch,
) -> None:
    watch.fails = LATE
    watch.cache(NOW + timedelta(days=30))
    watch.vigil.suspect()
    assert await watch.pass_time(0) == 1
    watch.vigil.suspect()
    assert await watch.pass_time(0) == 0

    await watch.pass_time(LONG_S)

    assert watch.stale == [Attack.SLOW_RETRIEVAL]


async def test_it_mends_itself(watch: Watch) -> None:
    watch.fails = LATE
    await watch.pass_time(EVERY_S)
    watch.fails = None

    await watch.pass_time(600)

    assert watch.vigil.trouble is None


async def test_metadata_that_is_refused_is_told(watch: Watch) -> None:
    watch.fails = RejectedError(Code.METADATA_ROLLBACK, "1 offered, 2 accepted before")

    await watch.pass_time(EVERY_S)

    assert watch.refused == [Code.METADATA_ROLLBACK]
    assert watch.stale == []
