"""The publisher around the carousel, on the in-memory bus."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from quarterdeck_controller.transfer.needs import NeedListener
from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.topics import UP_NEED, up
from quarterdeck_shared.transfer import ChunkFrame, Need, to_bitmap
from tests.support.brokers import until

STREAM = 99
FIRST, SECOND = "a" * 64, "b" * 64
Read = Callable[[str, int], bytes | None]


def read_all(artifact: str, number: int) -> bytes | None:
    return bytes([number]) * 100 if artifact in {FIRST, SECOND} else None


@dataclass
class Hall:
    """A controller's bus with a publisher, and everything that was broadcast."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    heard: list[tuple[str, int]] = field(default_factory=list)
    running: list["asyncio.Task[None]"] = field(default_factory=list)

    async def publisher(self, read: Read = read_all, *, rate: int = 0) -> Publisher:
        bus = MemoryBus(self.broker, "controller")
        await bus.start()
        await bus.wait_connected(1)
        await bus.subscribe("chunk/+", self.hear)
        publisher = Publisher(
            bus,
            read,
            lambda artifact: None if artifact == "f" * 64 else f"chunk/{artifact}",
            stream=STREAM,
            clock=SystemClock(),
            bytes_per_s=rate,
            may_read=lambda device, _: device != "stranger",
        )
        self.running.append(asyncio.create_task(publisher.run()))
        return publisher

    def hear(self, message: Message) -> None:
        frame = ChunkFrame.decode(message.payload)
        self.heard.append((message.topic[-1], frame.number))


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    made = Hall()
    yield made
    for task in made.running:
        task.cancel()
    await asyncio.gather(*made.running, return_exceptions=True)


def need(artifact: str, numbers: set[int], *, credit: int = 64) -> Need:
    missing = to_bitmap(numbers, 64)
    return Need(
        artifact=artifact, missing=missing, seen=0, stream=STREAM, credit=credit
    )


async def test_devices_that_ask_within_a_moment_share_one_broadcast(
    hall: Hall,
) -> None:
    publisher = await hall.publisher()

    publisher.hear("one", need(FIRST, {0, 1, 2}))
    publisher.hear("two", need(FIRST, {1, 2, 3}))

    await until(lambda: len(hall.heard) == 4, "the broadcast")
    assert hall.heard == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]


async def test_artifacts_take_turns(hall: Hall) -> None:
    publisher = await hall.publisher()

    publisher.hear("one", need(FIRST, set(range(32))))
    publisher.hear("two", need(SECOND, set(range(32))))

    await until(lambda: len(hall.heard) == 64, "both broadcasts")
    half = [name for name, _ in hall.heard[:32]]
    assert half.count("a") == half.count("b")


async def test_the_rate_is_kept(hall: Hall) -> None:
    publisher = await hall.publisher(rate=10_000)
    loop = asyncio.get_running_loop()
    began = loop.time()

    publisher.hear("one", need(FIRST, set(range(60))))

    await until(lambda: len(hall.heard) == 60, "all of it")
    assert loop.time() - began > 0.4


async def test_a_chunk_that_does_not_exist_stops_nothing(hall: Hall) -> None:
    publisher = await hall.publisher(
        lambda artifact, number: None if number > 2 else read_all(artifact, number)
    )

    publisher.hear("one", need(FIRST, set(range(50))))

    await until(lambda: len(hall.heard) == 3, "what exists")
    assert [number for _, number in hall.heard] == [0, 1, 2]


async def test_an_artifact_that_cannot_be_read_does_not_stop_the_others(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    def read(artifact: str, number: int) -> bytes | None:
        if artifact == FIRST:
            raise OSError("the disk is gone")
        return read_all(artifact, number)

    publisher = await hall.publisher(read)

    publisher.hear("one", need(FIRST, {0}))
    publisher.hear("two", need(SECOND, {0}))

    await until(lambda: hall.heard, "the healthy one")
    await until(lambda: "the disk is gone" in caplog.text, "the reason")
    assert hall.heard == [("b", 0)]


async def test_what_the_bus_did_not_take_is_sent_when_it_is_back(hall: Hall) -> None:
    publisher = await hall.publisher()
    hall.broker.stop()

    publisher.hear("one", need(FIRST, {0, 1}))
    await asyncio.sleep(0.2)
    hall.broker.start()

    await until(lambda: len(hall.heard) == 2, "both chunks")
    assert publisher.sent.frames == 2


async def test_strangers_and_unknown_artifacts_are_not_served(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = await hall.publisher()

    publisher.hear("stranger", need(FIRST, {0}))
    publisher.hear("one", need("f" * 64, {0}))
    publisher.hear("one", need(SECOND, {5}))

    await until(lambda: hall.heard, "what may be had")
    assert hall.heard == [("b", 5)]
    assert caplog.text.count("event=need_refused") == 2


async def test_a_device_whose_needs_make_no_sense_does_not_fill_the_log(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    needs = NeedListener(MemoryBus(hall.broker, "other"), await hall.publisher())

    with caplog.at_level(logging.WARNING):
        for device in ("liar", "liar", "liar", "other"):
            needs.hear(Message(up(device, UP_NEED), b"nonsense"))

    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[1] for line in lines] == ["device=liar", "device=other"]
