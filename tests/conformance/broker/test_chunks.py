"""Attacks on the chunks of an artifact, through the broker, on a running agent."""

import pytest

from quarterdeck_shared import topics
from quarterdeck_shared.codes import Code
from quarterdeck_shared.transfer import ChunkFrame
from tests.support.hostile import Tamper
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")


def artifact_of(siege: Siege) -> str:
    """Return the artifact under attack."""
    return siege.world.catalog.release("model@2").variants["cam"].artifact


def flipped(_artifact: str, _number: int, chunk: bytes) -> bytes:
    """Return a chunk with one wrong bit."""
    return bytes([chunk[0] ^ 1]) + chunk[1:]


@pytest.mark.parametrize(
    "tamper",
    [
        flipped,
        lambda _artifact, _number, chunk: chunk[:-1],
        lambda _artifact, _number, chunk: chunk + b"\0",
        lambda _artifact, _number, _chunk: b"\0",
        lambda _artifact, _number, chunk: bytes(len(chunk)),
        lambda _artifact, _number, chunk: chunk + bytes(1 << 19),
    ],
    ids=["one bit", "truncated", "extended", "one byte", "zeros", "endless"],
)
async def test_tampered_chunks_never_run(siege: Siege, tamper: Tamper) -> None:
    siege.ground.tamper = tamper
    await siege.send(siege.assign())

    await siege.refuses(Code.CHUNK_INVALID)
    assert siege.update.outcome in {"refused", "rolled_back"}
    siege.nothing_wrong_on_disk("model@2")
    await siege.heals()


async def test_chunks_in_each_others_place(siege: Siege) -> None:
    catalog = siege.ground.catalog

    def moved(artifact: str, number: int, chunk: bytes) -> bytes:
        other = catalog.read_chunk(artifact, (number + 17) % 21)
        return other if other is not None and other != chunk else chunk[::-1]

    siege.ground.tamper = moved
    await siege.send(siege.assign())

    await siege.refuses(Code.CHUNK_INVALID)
    await siege.heals()


async def test_the_chunks_of_another_release(siege: Siege) -> None:
    other = siege.world.catalog.release("model@3").variants["cam"].artifact
    catalog = siege.ground.catalog

    def exchanged(_artifact: str, number: int, chunk: bytes) -> bytes:
        return catalog.read_chunk(other, number) or chunk

    siege.ground.tamper = exchanged
    await siege.send(siege.assign())

    await siege.refuses(Code.CHUNK_INVALID)
    await siege.heals()


async def test_one_tampered_chunk_is_asked_for_again(siege: Siege) -> None:
    spoiled: list[int] = []

    def spoil_once(artifact: str, number: int, chunk: bytes) -> bytes:
        if number == 3 and len(spoiled) < 2:
            spoiled.append(number)
            return flipped(artifact, number, chunk)
        return chunk

    siege.ground.tamper = spoil_once
    await siege.send(siege.assign())

    await siege.outcome(10, "committed")
    await siege.runs("model@2")
    assert spoiled == [3, 3]


async def test_rubbish_on_the_topic_of_chunks_is_dropped(siege: Siege) -> None:
    topic = topics.chunks("cam", artifact_of(siege))
    rubbish = [
        b"",
        b"\xff" * 64,
        ChunkFrame(2**32 - 1, 2**64 - 1, b"x").encode(),
        ChunkFrame(0, 2**63, b"x").encode(),
        b"\x02" + ChunkFrame(0, 1, b"x").encode()[1:],
        bytes((1 << 20) + 17),
    ]

    def also_rubbish(_artifact: str, number: int, chunk: bytes) -> bytes:
        siege.ground.bus.publish_fast(topic, rubbish[number % len(rubbish)])
        return chunk

    siege.ground.tamper = also_rubbish
    await siege.send(siege.assign())

    await siege.outcome(10, "committed")
    await siege.runs("model@2")


async def test_chunks_that_are_withheld_leave_the_device_as_it_is(
    siege: Siege,
) -> None:
    siege.ground.withheld.add(artifact_of(siege))
    await siege.send(siege.assign())
    await siege.outcome(10, "pending")

    await siege.runs("model@1")
    assert siege.reported.state == "fetching"
    # a newer assignment does not wait for the withheld one
    siege.ground.withheld.clear()
    await siege.send(siege.assign(11, version=3))
    await siege.outcome(11, "committed")
    await siege.runs("model@3")


async def test_the_publishers_count_driven_to_its_end_does_not_stop_the_transfer(
    siege: Siege,
) -> None:
    artifact = artifact_of(siege)
    topic, catalog = topics.chunks("cam", artifact), siege.ground.catalog
    first = catalog.read_chunk(artifact, 0)
    assert first is not None
    absurd = ChunkFrame(0, (1 << 53) - 1, first).encode()

    def count_on(_artifact: str, _number: int, chunk: bytes) -> bytes:
        siege.ground.bus.publish_fast(topic, absurd)
        return chunk

    siege.ground.tamper = count_on
    await siege.send(siege.assign())

    await siege.outcome(10, "committed")
    await siege.runs("model@2")
