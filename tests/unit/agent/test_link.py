"""What a device says of itself, and what it hears, over the memory bus."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from quarterdeck_agent.link import Link
from quarterdeck_shared import topics
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.reported import Reported, SessionState
from tests.support.brokers import until

BOOT = 77


class Desk:
    """A link, and somebody who listens to all it says."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker, "cam-1")
        self.outside = MemoryBus(self.broker, "outside")
        self.said: list[tuple[str, bytes]] = []
        self.assignments: list[bytes] = []
        self.link = Link(
            self.bus,
            "cam-1",
            BOOT,
            report=reported,
            on_assignment=self.assignments.append,
            on_news=lambda: None,
        )
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self.outside.start()
        for leaf in (topics.UP_STATE, topics.UP_REPORTED):
            await self.outside.subscribe(topics.up("cam-1", leaf), self.hear)
        await self.link.start()
        self.task = asyncio.create_task(self.link.run())
        await self.bus.start()

    def hear(self, message: Message) -> None:
        self.said.append((topics.leaf(message.topic), message.payload))

    def states(self) -> list[SessionState]:
        return [SessionState.decode(it) for leaf, it in self.said if leaf == "state"]

    async def assign(self, payload: bytes) -> None:
        topic = topics.down("cam-1", topics.DOWN_ASSIGNMENT)
        await self.outside.publish(topic, payload, retain=True)

    async def end(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.bus.close()
        await self.outside.close()


def reported() -> Reported:
    return Reported(
        device="cam-1",
        device_class="cam",
        agent="0.1.0",
        boot=BOOT,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        state="idle",
        step=1,
        sequence=0,
        capabilities=Capabilities(
            isa=("x86-64",),
            memory_mb=64,
            cpus=1,
            runtime="1.30.0",
            providers=("CPUExecutionProvider",),
        ),
    )


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    await made.begin()
    yield made
    await made.end()


async def test_a_birth_comes_before_the_reported_state(desk: Desk) -> None:
    await until(lambda: len(desk.said) == 2, "birth and reported state")

    assert [leaf for leaf, _ in desk.said] == ["state", "reported"]
    assert desk.states()[0] == SessionState(online=True, boot=BOOT, connection=1)


async def test_a_lost_connection_leaves_the_will_of_that_connection(desk: Desk) -> None:
    await until(desk.states, "the birth")

    desk.broker.disconnect("cam-1")

    await until(lambda: len(desk.states()) >= 3, "will and second birth")
    assert desk.states()[1:3] == [
        SessionState(online=False, boot=BOOT, connection=1),
        SessionState(online=True, boot=BOOT, connection=2),
    ]


async def test_asked_for_its_birth_it_says_it_again(desk: Desk) -> None:
    await until(lambda: len(desk.said) == 2, "birth and reported state")

    await desk.outside.publish(topics.down("cam-1", topics.DOWN_REBIRTH), b"")

    await until(lambda: len(desk.said) == 4, "both again")
    assert desk.states()[0] == desk.states()[1]


async def test_a_withdrawn_assignment_is_not_judged(desk: Desk) -> None:
    await desk.assign(b"envelope")
    await desk.assign(b"")
    await desk.assign(b"another")

    await until(lambda: len(desk.assignments) == 2, "both envelopes")
    assert desk.assignments == [b"envelope", b"another"]
