"""Two agents with one identity, found by asking both to show themselves."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck_controller.fleet.listener import Listener
from quarterdeck_shared import topics
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from tests.support.brokers import until
from tests.support.fleet import Core, FakeDevice

RIVALS_S = 0.02


class Site:
    """A controller's listener on a memory bus, and agents that answer it."""

    def __init__(self, path: Path) -> None:
        self.broker = MemoryBroker()
        self.controller = MemoryBus(self.broker, "controller")
        self.core = Core(path / "db", bus=self.controller)
        self.core.enrol("till-1")
        self.agents: list[MemoryBus] = []

    async def agent(self, boot: int) -> MemoryBus:
        """Start an agent of the device: it says its birth, and again when asked."""
        bus = MemoryBus(self.broker, f"secret-{boot}")
        device = FakeDevice("till-1", boot=boot)
        telling: set[asyncio.Task[None]] = set()

        def show(_: Message) -> None:
            birth = device.birth()
            telling.add(
                asyncio.create_task(
                    bus.publish(birth.topic, birth.payload, retain=True)
                )
            )

        await bus.start()
        await bus.wait_connected(5)
        await bus.subscribe(topics.down("till-1", topics.DOWN_REBIRTH), show)
        show(Message("", b""))
        self.agents.append(bus)
        await until(lambda: self.boot() == boot, "the birth")
        return bus

    def boot(self) -> int | None:
        with self.core.store.read() as records:
            presence = records.presence.get("till-1")
        return presence.boot if presence else None

    def alternated(self) -> bool:
        with self.core.store.read() as records:
            presence = records.presence.get("till-1")
        return presence is not None and presence.alternated_at is not None


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.controller.start()
    await made.controller.wait_connected(5)
    listener = Listener(
        made.controller, made.core.store, made.core.clock, rivals_s=RIVALS_S
    )
    loop = asyncio.create_task(listener.run())
    await asyncio.sleep(0)
    yield made
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    for bus in (made.controller, *made.agents):
        await bus.close()
    made.core.close()


async def test_two_agents_that_both_stay_are_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    await site.agent(1)

    await site.agent(2)

    await until(site.alternated, "the duplicate")
    told = [it for it in caplog.records if Code.DUPLICATE_IDENTITY in it.getMessage()]
    assert [it.levelno for it in told] == [logging.WARNING]


async def test_a_restart_whose_old_session_still_hangs_is_no_duplicate(
    site: Site,
) -> None:
    old = await site.agent(1)
    await old.unsubscribe(topics.down("till-1", topics.DOWN_REBIRTH))  # it is dead

    await site.agent(2)
    await asyncio.sleep(10 * RIVALS_S)

    assert not site.alternated()
    assert site.boot() == 2
