"""Sessions, reported state and telemetry on the in-memory bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from quarterdeck_agent.link import EVENTS, Link
from quarterdeck_agent.outbox import Outbox
from quarterdeck_agent.telemetry.send import IN_FLIGHT, Sender
from quarterdeck_shared import topics
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.reported import Reported, SessionState
from quarterdeck_shared.telemetry.window import Ack, Window
from tests.support.brokers import until
from tests.support.crash_machine import CAPABILITIES

DEVICE, BOOT = "dev-1", 99
CLIENT, GENERATION = "5ec2e7", 3


@dataclass
class Wire:
    """A device's link, and what a controller hears of it, in order."""

    broker: MemoryBroker
    bus: MemoryBus
    link: Link
    heard: list[Message] = field(default_factory=list)
    offered: list[bytes] = field(default_factory=list)
    news: list[None] = field(default_factory=list)

    def leaves(self) -> list[str]:
        return [topics.leaf(message.topic) for message in self.heard]

    def states(self) -> list[SessionState]:
        return [
            SessionState.decode(m.payload)
            for m in self.heard
            if topics.leaf(m.topic) == topics.UP_STATE
        ]


def report() -> Reported:
    return Reported(
        device=DEVICE,
        device_class="gateway",
        agent="0",
        boot=BOOT,
        at=datetime.now(UTC),
        state="idle",
        step=1,
        sequence=0,
        capabilities=CAPABILITIES,
    )


def state(*, online: bool, connection: int = 1) -> SessionState:
    return SessionState(
        online=online,
        boot=BOOT,
        connection=connection,
        client=CLIENT,
        generation=GENERATION,
    )


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    broker = MemoryBroker()
    controller, bus = MemoryBus(broker, "controller"), MemoryBus(broker, DEVICE)
    heard: list[Message] = []
    offered: list[bytes] = []
    news: list[None] = []
    link = Link(
        bus,
        DEVICE,
        BOOT,
        client=CLIENT,
        generation=lambda: GENERATION,
        report=report,
        on_assignment=offered.append,
        on_news=lambda: news.append(None),
    )
    await controller.subscribe(topics.up_any("+"), heard.append)
    await controller.start()
    await controller.wait_connected(5)
    await link.start()
    running = asyncio.create_task(link.run())
    await bus.start()
    wire = Wire(broker, bus, link, heard, offered, news)
    try:
        yield wire
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.close()
        await controller.close()


async def down(wire: Wire, leaf: str, payload: bytes) -> None:
    bus = MemoryBus(wire.broker, "another-controller")
    await bus.start()
    await bus.wait_connected(5)
    await bus.publish(topics.down(DEVICE, leaf), payload)
    await bus.close()


async def test_a_birth_comes_first_and_then_what_is_reported() -> None:
    async with wired() as wire:
        await until(lambda: len(wire.heard) == 2, "birth and reported")

    assert wire.leaves() == [topics.UP_STATE, topics.UP_REPORTED]
    assert wire.states() == [state(online=True)]


async def test_each_connection_is_counted_and_reported_anew() -> None:
    async with wired() as wire:
        await until(lambda: len(wire.heard) == 2, "the first birth")
        wire.broker.disconnect(DEVICE)
        await until(lambda: wire.leaves()[-1:] == [topics.UP_REPORTED], "again")
        await until(lambda: len(wire.states()) >= 3, "will and second birth")

    births = [state for state in wire.states() if state.online]
    wills = [state for state in wire.states() if not state.online]
    assert [birth.connection for birth in births] == [1, 2]
    assert wills[0] == state(online=False, connection=1)


async def test_a_clean_stop_says_goodbye() -> None:
    async with wired() as wire:
        await until(lambda: len(wire.heard) == 2, "the birth")
        await wire.link.stop()
        await until(lambda: len(wire.states()) == 2, "the goodbye")

    assert not wire.states()[1].online


async def test_a_rebirth_publishes_state_and_reported_again() -> None:
    async with wired() as wire:
        await until(lambda: len(wire.heard) == 2, "the birth")
        await down(wire, topics.DOWN_REBIRTH, b"")
        await until(lambda: len(wire.heard) == 4, "the rebirth")

    assert wire.leaves()[2:] == [topics.UP_STATE, topics.UP_REPORTED]


async def test_events_of_a_time_offline_are_kept_up_to_a_bound() -> None:
    async with wired() as wire:
        await until(lambda: len(wire.heard) == 2, "the birth")
        wire.broker.stop(forget=False)
        for number in range(EVENTS + 10):
            wire.link.tell(
                StepEvent(
                    boot=BOOT,
                    number=number,
                    at=datetime.now(UTC),
                    event="proved",
                    state="probation",
                )
            )
        wire.broker.start()
        await until(lambda: wire.leaves().count(topics.UP_EVENT) == EVENTS, "events")

    events = [
        StepEvent.decode(m.payload).number
        for m in wire.heard
        if topics.leaf(m.topic) == topics.UP_EVENT
    ]
    assert events == list(range(10, EVENTS + 10))


async def test_an_assignment_is_handed_on_as_it_is_and_junk_of_others_is_dropped() -> (
    None
):
    async with wired() as wire:
        await until(lambda: len(wire.heard) == 2, "the birth")
        await down(wire, topics.DOWN_ASSIGNMENT, b"envelope")
        await until(lambda: wire.offered, "the assignment")

    assert wire.offered == [b"envelope"]


async def test_a_withdrawn_assignment_is_not_judged() -> None:
    async with wired() as wire:
        await down(wire, topics.DOWN_ASSIGNMENT, b"envelope")
        await down(wire, topics.DOWN_ASSIGNMENT, b"")
        await down(wire, topics.DOWN_ASSIGNMENT, b"another")
        await until(lambda: len(wire.offered) == 2, "both assignments")

    assert wire.offered == [b"envelope", b"another"]


async def test_windows_are_sent_until_acknowledged_and_few_at_a_time(
    tmp_path: Path,
) -> None:
    outbox = Outbox(tmp_path)
    outbox.restore()
    for sequence in range(1, 41):
        outbox.keep(
            Window(
                boot=BOOT,
                sequence=sequence,
                artifact="0" * 16,
                started=datetime.now(UTC),
                duration=timedelta(seconds=1),
            )
        )
    async with wired() as wire:
        sender = Sender(wire.bus, DEVICE, outbox, SystemClock())
        sending = asyncio.create_task(sender.run())

        def sent() -> list[int]:
            windows = [
                Window.decode(m.payload).sequence
                for m in wire.heard
                if topics.leaf(m.topic) == topics.UP_TELEMETRY
            ]
            return list(dict.fromkeys(windows))

        await until(lambda: len(sent()) == IN_FLIGHT, "the first windows")
        await asyncio.sleep(0.05)
        in_flight = len(sent())
        while len(outbox):
            ack = Ack(boot=BOOT, sequences=tuple(sent()))
            await down(wire, topics.DOWN_ACK, ack.encode())
            await asyncio.sleep(0.02)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert in_flight == IN_FLIGHT
    assert sent() == list(range(1, 41))
    assert list(tmp_path.iterdir()) == []
