"""Signed metadata over the bus, honestly and against a hostile or broken other end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import (
    DownloadHTTPError,
    DownloadLengthMismatchError,
    SlowRetrievalError,
)

from quarterdeck_agent.update.floor import FloorFile
from quarterdeck_agent.update.metadata import MetadataFetcher
from quarterdeck_agent.update.trust import Trust
from quarterdeck_controller.repository.server import MetadataServer, replies
from quarterdeck_controller.repository.timekeeper import Timekeeper
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.metadata import PIECE_BYTES, MetadataReply, MetadataRequest
from quarterdeck_shared.signed_time import time_name
from quarterdeck_shared.topics import (
    DOWN_METADATA,
    UP_METADATA,
    down,
    parse_up,
    up,
    up_any,
)
from tests.support.attacks import BUILT, World
from tests.support.brokers import MemoryYard, Yard, real_yard, until
from tests.support.releases import ManualClock

Answer = Callable[[MetadataRequest], list[MetadataReply]]
LARGE = bytes(range(256)) * 1024 + b"end"


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def session(yard: Yard, name: str) -> Bus:
    bus = yard.bus(name)
    await bus.start()
    await bus.wait_connected(10)
    return bus


def fetch(fetcher: MetadataFetcher, name: str) -> Awaitable[bytes]:
    return asyncio.to_thread(fetcher.download_bytes, "/" + name, 1 << 20)


@pytest.fixture
async def memory() -> AsyncIterator[MemoryYard]:
    yard = MemoryYard()
    yield yard
    await yard.end()


async def device(yard: Yard, *, timeout_s: float = 5) -> MetadataFetcher:
    bus = await session(yard, "cam-1")
    fetcher = MetadataFetcher(bus, "cam-1", asyncio.get_running_loop(), timeout_s)
    await fetcher.start()
    return fetcher


async def controller(yard: Yard, answer: Answer) -> Bus:
    """Answer requests of cam-1 in any way a test wants."""
    bus = await session(yard, "controller")

    def hear(message: Message) -> None:
        source = parse_up(message.topic)
        assert source is not None
        request = MetadataRequest.decode(message.payload)
        for reply in answer(request):
            bus.publish_fast(down(source.device, DOWN_METADATA), reply.encode())

    await bus.subscribe(up_any(UP_METADATA), hear)
    return bus


@pytest.mark.parametrize("kind", ["memory", "nats"])
async def test_a_device_judges_an_assignment_over_the_bus(
    kind: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    yard: Yard = MemoryYard()
    if kind == "nats":
        yard = await real_yard("nats", tmp_path, ("cam-1",))
    served = MetadataServer(await session(yard, "controller"), world.repository.read)
    async with running(served.run()):
        trust = Trust(
            world.state(),
            device="cam-1",
            device_class="cam",
            root=world.root,
            fetcher=await device(yard),
            clock=world.clock,
            built=BUILT,
        )

        accepted = await asyncio.to_thread(trust.accept, world.assign(1))

    assert accepted.index.device_class == "cam"
    await yard.end()


async def test_a_device_without_a_clock_learns_the_time_over_the_bus(
    memory: MemoryYard, tmp_path: Path
) -> None:
    world = World(tmp_path)
    keeper = Timekeeper(world.repository, world.clock)
    world.clock.forward(hours=3)
    served = MetadataServer(await session(memory, "controller"), keeper.read)
    async with running(served.run()):
        trust = Trust(
            world.state(),
            device="cam-1",
            device_class="cam",
            root=world.root,
            fetcher=await device(memory),
            clock=ManualClock(BUILT),
            built=BUILT,
        )

        await asyncio.to_thread(trust.refresh)

    assert FloorFile(world.state()).load(BUILT).time == world.clock.now()


async def test_the_time_is_asked_for_once_where_a_file_is_asked_for_again(
    memory: MemoryYard,
) -> None:
    asked: list[str] = []

    def answer(request: MetadataRequest) -> list[MetadataReply]:
        asked.append(request.name)
        return []

    await controller(memory, answer)
    fetcher = await device(memory, timeout_s=0.05)

    for name in ("file", time_name("ab" * 16)):
        with pytest.raises(SlowRetrievalError):
            await fetch(fetcher, name)

    assert asked == ["file"] * 3 + [time_name("ab" * 16)]


@pytest.mark.parametrize("name", ["time/", "time/ab", "time/../x", "time/" + "A" * 32])
def test_a_question_for_the_time_of_another_form_is_for_a_file_that_is_not_there(
    tmp_path: Path, name: str
) -> None:
    world = World(tmp_path)

    assert Timekeeper(world.repository, world.clock).read(name) is None


def test_without_its_key_the_controller_tells_no_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.home.keys / "time.pem").unlink()
    keeper = Timekeeper(world.repository, world.clock)

    assert keeper.answer("ab" * 16) is None
    assert keeper.read("timestamp.json") == world.repository.timestamp()


async def test_a_file_of_many_pieces_arrives_whole(memory: MemoryYard) -> None:
    served = MetadataServer(await session(memory, "controller"), {"large": LARGE}.get)
    async with running(served.run()):
        fetcher = await device(memory)

        assert await fetch(fetcher, "large") == LARGE


async def test_an_empty_file_is_not_an_absent_one(memory: MemoryYard) -> None:
    served = MetadataServer(await session(memory, "controller"), {"empty": b""}.get)
    async with running(served.run()):
        fetcher = await device(memory)

        assert await fetch(fetcher, "empty") == b""
        with pytest.raises(DownloadHTTPError) as caught:
            await fetch(fetcher, "absent")
        assert caught.value.status_code == 404


async def test_a_lost_request_is_asked_again(memory: MemoryYard) -> None:
    asked: list[int] = []

    def answer(request: MetadataRequest) -> list[MetadataReply]:
        asked.append(request.id)
        return list(replies(request.id, b"data")) if len(asked) > 1 else []

    await controller(memory, answer)
    fetcher = await device(memory, timeout_s=0.1)

    assert await fetch(fetcher, "file") == b"data"
    assert len(set(asked)) == 2


@pytest.mark.parametrize("lost", [0, 1, 3, 4])
async def test_a_lost_piece_is_asked_again_and_the_file_goes_on_from_there(
    memory: MemoryYard, lost: int
) -> None:
    asked: list[int] = []

    def answer(request: MetadataRequest) -> list[MetadataReply]:
        asked.append(request.id)
        pieces = list(replies(request.id, LARGE))
        if len(asked) == 1:
            del pieces[lost]
        return pieces

    await controller(memory, answer)
    fetcher = await device(memory, timeout_s=0.1)

    assert await fetch(fetcher, "file") == LARGE
    assert len(asked) == 2


async def test_pieces_that_arrive_twice_count_once(memory: MemoryYard) -> None:
    def answer(request: MetadataRequest) -> list[MetadataReply]:
        return [reply for reply in replies(request.id, LARGE) for _ in range(2)]

    await controller(memory, answer)

    assert await fetch(await device(memory), "file") == LARGE


async def test_slow_retrieval_no_answer_at_all_ends_in_time(
    memory: MemoryYard,
) -> None:
    await controller(memory, lambda _: [])
    fetcher = await device(memory, timeout_s=0.05)

    with pytest.raises(SlowRetrievalError):
        await fetch(fetcher, "file")


async def test_slow_retrieval_a_file_may_not_drip_in_small_pieces(
    memory: MemoryYard,
) -> None:
    def answer(request: MetadataRequest) -> list[MetadataReply]:
        return [MetadataReply(request.id, found=True, piece=0, last=False, data=b"x")]

    await controller(memory, answer)

    with pytest.raises(DownloadLengthMismatchError):
        await fetch(await device(memory), "file")


async def test_endless_pieces_are_cut_off_and_what_follows_is_dropped(
    memory: MemoryYard, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: MetadataRequest) -> list[MetadataReply]:
        full = bytes(PIECE_BYTES)
        return [
            MetadataReply(request.id, found=True, piece=number, last=False, data=full)
            for number in range(200)
        ]

    await controller(memory, answer)
    fetcher = await device(memory, timeout_s=0.2)

    with pytest.raises(DownloadLengthMismatchError):
        await fetch(fetcher, "file")
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


async def test_a_reply_that_was_not_asked_for_is_dropped(memory: MemoryYard) -> None:
    def answer(request: MetadataRequest) -> list[MetadataReply]:
        return [*replies(request.id ^ 1, b"forged"), *replies(request.id, b"honest")]

    bus = await controller(memory, answer)
    fetcher = await device(memory)
    bus.publish_fast(down("cam-1", DOWN_METADATA), b"rubbish")

    assert await fetch(fetcher, "file") == b"honest"


async def test_without_a_connection_the_device_says_so(memory: MemoryYard) -> None:
    fetcher = await device(memory)
    await memory.go_down()

    with pytest.raises(TransientError) as caught:
        await fetch(fetcher, "file")

    assert caught.value.code is Code.NOT_CONNECTED


async def test_a_stopping_agent_does_not_wait_for_an_answer(
    memory: MemoryYard,
) -> None:
    await controller(memory, lambda _: [])
    fetcher = await device(memory, timeout_s=60)
    waiting = asyncio.create_task(asyncio.to_thread(fetcher.download_bytes, "/f", 9))
    await until(lambda: fetcher._asked, "a waiting request")

    fetcher.close()

    async with asyncio.timeout(5):
        with pytest.raises(TransientError, match="stopping"):
            await waiting


async def test_a_device_that_floods_is_bounded_and_others_are_answered(
    memory: MemoryYard, caplog: pytest.LogCaptureFixture
) -> None:
    server = MetadataServer(await session(memory, "controller"), {"f": b"data"}.get)
    flood = MetadataRequest(id=1, name="f").encode()
    with caplog.at_level(logging.WARNING):
        for _ in range(10_000):
            server.hear(Message(up("flooder", UP_METADATA), flood))

    assert server._queue.qsize() == 16
    async with running(server.run()):
        assert await fetch(await device(memory), "f") == b"data"


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[]", b"\xff" * 70_000, b'{"id":1,"name":"a\\u0000"}']
)
async def test_a_request_that_is_none_is_dropped(
    memory: MemoryYard, payload: bytes
) -> None:
    server = MetadataServer(await session(memory, "controller"), {"f": b"data"}.get)

    server.hear(Message(up("cam-1", UP_METADATA), payload))
    server.hear(Message("qd/1/elsewhere", MetadataRequest(id=1, name="f").encode()))

    assert server._queue.empty()


def _pieces(data: bytes) -> Iterator[int]:
    return (len(reply.data) for reply in replies(1, data))


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (0, [0]),
        (1, [1]),
        (PIECE_BYTES, [PIECE_BYTES]),
        (PIECE_BYTES + 1, [PIECE_BYTES, 1]),
    ],
)
def test_a_file_is_cut_into_full_pieces_and_a_last_one(
    length: int, pieces: list[int]
) -> None:
    assert list(_pieces(bytes(length))) == pieces


async def test_a_device_that_mixes_sense_and_nonsense_does_not_fill_the_log(
    memory: MemoryYard, caplog: pytest.LogCaptureFixture
) -> None:
    served = MetadataServer(await session(memory, "controller"), lambda _name: b"x")
    topic = up("cam-1", UP_METADATA)
    sense = Message(topic, MetadataRequest(id=1, name="timestamp.json").encode())

    with caplog.at_level(logging.WARNING):
        async with running(served.run()):
            for _ in range(50):
                served.hear(sense)
                served.hear(Message(topic, b"nonsense"))
                await asyncio.sleep(0.001)

    assert len(caplog.records) == 1
