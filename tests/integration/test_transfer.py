"""Artifacts over a real broker: broadcast, repaired, resumed, refused."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quarterdeck_agent.update.fetch import Fetcher, FetchResult, Progress
from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Bus, Handler, Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.transfer import ChunkFrame, Need
from tests.support.artifacts import Artifact, make_artifact
from tests.support.brokers import CLASS, RealYard, real_yard, until

STREAM = 4711
DEVICES = tuple(f"device-{n}" for n in range(4))


Alter = Callable[[ChunkFrame], ChunkFrame | None]
"""What becomes of a frame on its way; None loses it."""


class FaultyBus(MqttBus):
    """A bus on which chunk frames suffer before their handlers hear them."""

    alter: Alter

    async def subscribe(self, pattern: str, handler: Handler, *, qos: int = 1) -> None:
        def hear(message: Message) -> None:
            altered = self.alter(ChunkFrame.decode(message.payload))
            if altered is not None:
                handler(Message(message.topic, altered.encode()))

        await super().subscribe(pattern, hear, qos=qos)


@dataclass
class Site:
    """A broker, a controller that publishes artifacts, and devices that fetch."""

    yard: RealYard
    folder: Path
    controller: Bus
    publisher: Publisher
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def offer(self, artifact: Artifact) -> Artifact:
        self.artifacts[artifact.digest] = artifact
        return artifact

    async def fetcher(self, name: str) -> Fetcher:
        return await started(self.yard.bus(name), name)

    async def faulty(self, name: str, alter: Alter) -> Fetcher:
        endpoint = self.yard.bus(name)._endpoint
        bus = FaultyBus(endpoint, name, clock=SystemClock(), rng=random.Random(2))
        bus.alter = alter
        self.yard.buses[name] = bus
        return await started(bus, name)

    def place(self, name: str) -> Path:
        return self.folder / "slots" / name

    async def fetch(
        self,
        fetcher: Fetcher,
        artifact: Artifact,
        name: str,
        *,
        reuse: tuple[Path, ...] = (),
        stall_s: float = 20,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> FetchResult:
        return await fetcher.fetch(
            artifact.digest,
            artifact.index,
            self.place(name),
            reuse=reuse,
            stall_s=stall_s,
            on_progress=on_progress,
        )


async def started(bus: Bus, name: str) -> Fetcher:
    await bus.start()
    await bus.wait_connected(10)
    return Fetcher(bus, name, CLASS, SystemClock(), lambda: STREAM)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    yard = await real_yard("nats", tmp_path, DEVICES)
    controller = yard.bus("controller")
    artifacts: dict[str, Artifact] = {}

    def read(digest: str, number: int) -> bytes | None:
        return artifacts[digest].chunk(number)

    def topic(digest: str) -> str | None:
        return topics.chunks(CLASS, digest) if digest in artifacts else None

    publisher = Publisher(controller, read, topic, stream=STREAM, clock=SystemClock())

    def hear(message: Message) -> None:
        came = topics.parse_up(message.topic)
        assert came is not None
        publisher.hear(came.device, Need.decode(message.payload))

    await controller.start()
    await controller.subscribe(topics.up_any(topics.UP_NEED), hear)
    await controller.wait_connected(10)
    running = asyncio.create_task(publisher.run())
    yield Site(yard, tmp_path, controller, publisher, artifacts)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await yard.end()


async def test_a_wave_is_served_by_one_copy(site: Site) -> None:
    artifact = site.offer(make_artifact(3_000_000))
    fetchers = [await site.fetcher(name) for name in DEVICES]

    results = await asyncio.gather(
        *(
            site.fetch(fetcher, artifact, name)
            for fetcher, name in zip(fetchers, DEVICES, strict=True)
        )
    )

    assert all(artifact.is_whole_in(site.place(name)) for name in DEVICES)
    assert [r.received_bytes for r in results] == [artifact.index.length] * len(DEVICES)
    assert site.publisher.sent.bytes <= artifact.index.length * 1.05


async def test_several_artifacts_are_served_at_once(site: Site) -> None:
    first = site.offer(make_artifact(1_000_000, seed=1))
    second = site.offer(make_artifact(1_000_000, seed=2))
    one = await site.fetcher(DEVICES[0])
    other = await site.fetcher(DEVICES[1])

    await asyncio.gather(
        site.fetch(one, first, DEVICES[0]), site.fetch(other, second, DEVICES[1])
    )

    assert first.is_whole_in(site.place(DEVICES[0]))
    assert second.is_whole_in(site.place(DEVICES[1]))


async def test_what_was_lost_is_repaired(site: Site) -> None:
    artifact = site.offer(make_artifact(2_000_000))
    rng = random.Random(3)
    lossy = await site.faulty(
        DEVICES[0], lambda frame: None if rng.random() < 0.2 else frame
    )
    healthy = await site.fetcher(DEVICES[1])

    lossy_result, healthy_result = await asyncio.gather(
        site.fetch(lossy, artifact, DEVICES[0]),
        site.fetch(healthy, artifact, DEVICES[1]),
    )

    assert artifact.is_whole_in(site.place(DEVICES[0]))
    assert artifact.is_whole_in(site.place(DEVICES[1]))
    assert lossy_result.received_bytes == artifact.index.length
    assert healthy_result.received_bytes == artifact.index.length
    assert site.publisher.sent.bytes < artifact.index.length * 2


async def test_a_fetch_that_was_cut_short_resumes_without_refetching(
    site: Site,
) -> None:
    artifact = site.offer(make_artifact(4_000_000))
    fetcher = await site.fetcher(DEVICES[0])
    seen: list[Progress] = []
    fetching = asyncio.create_task(
        site.fetch(fetcher, artifact, DEVICES[0], on_progress=seen.append)
    )
    await until(lambda: seen and seen[-1].chunks_missing <= 40, "a part of it")
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    first_bytes = seen[-1].received_bytes

    again = await site.fetch(fetcher, artifact, DEVICES[0])

    assert artifact.is_whole_in(site.place(DEVICES[0]))
    assert 0 < first_bytes < artifact.index.length
    assert first_bytes + again.received_bytes == artifact.index.length


async def test_what_is_complete_is_not_asked_for(site: Site) -> None:
    artifact = site.offer(make_artifact(500_000))
    fetcher = await site.fetcher(DEVICES[0])
    await site.fetch(fetcher, artifact, DEVICES[0])
    sent = site.publisher.sent.frames

    again = await site.fetch(fetcher, artifact, DEVICES[0])

    assert again == FetchResult(0, 0, 0)
    assert site.publisher.sent.frames == sent


async def test_damaged_bytes_on_disk_are_fetched_again(site: Site) -> None:
    artifact = site.offer(make_artifact(1_000_000))
    fetcher = await site.fetcher(DEVICES[0])
    await site.fetch(fetcher, artifact, DEVICES[0])
    with (site.place(DEVICES[0]) / "model.onnx").open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")

    again = await site.fetch(fetcher, artifact, DEVICES[0])

    assert artifact.is_whole_in(site.place(DEVICES[0]))
    assert again.received_bytes == artifact.index.chunk_bytes


async def test_unchanged_chunks_are_copied_from_another_slot(site: Site) -> None:
    old = site.offer(make_artifact(1_000_000, seed=1))
    changed = bytearray(old.parts["model.onnx"])
    changed[500_000] ^= 1
    new = site.offer(make_artifact(0, seed=1, model=bytes(changed)))
    fetcher = await site.fetcher(DEVICES[0])
    await site.fetch(fetcher, old, "old")

    result = await site.fetch(fetcher, new, "new", reuse=(site.place("old"),))

    assert new.is_whole_in(site.place("new"))
    assert result.received_bytes == new.index.chunk_bytes
    assert result.reused_bytes == new.index.length - new.index.chunk_bytes


async def test_a_tampered_chunk_never_touches_the_disk(site: Site) -> None:
    artifact = site.offer(make_artifact(1_000_000))
    tampered: list[int] = []

    def spoil_first(frame: ChunkFrame) -> ChunkFrame:
        if frame.number != 3 or tampered:
            return frame
        tampered.append(frame.number)
        return ChunkFrame(frame.number, frame.published, b"evil" * 16384)

    fetcher = await site.faulty(DEVICES[0], spoil_first)

    result = await site.fetch(fetcher, artifact, DEVICES[0])

    assert artifact.is_whole_in(site.place(DEVICES[0]))
    assert result.invalid_chunks == 1
    assert result.received_bytes == artifact.index.length


async def test_nothing_but_wrong_chunks_is_refused(site: Site) -> None:
    artifact = make_artifact(1_000_000)
    evil = make_artifact(1_000_000, seed=666)
    site.artifacts[artifact.digest] = evil
    fetcher = await site.fetcher(DEVICES[0])

    with pytest.raises(RejectedError) as refused:
        await site.fetch(fetcher, artifact, DEVICES[0])

    assert refused.value.code is Code.CHUNK_INVALID
    empty = (site.place(DEVICES[0]) / "model.onnx").read_bytes()
    assert not any(empty)


async def test_a_fetch_without_a_controller_stalls_and_says_so(site: Site) -> None:
    unknown = make_artifact(100_000, seed=9)
    fetcher = await site.fetcher(DEVICES[0])

    with pytest.raises(TransientError) as stalled:
        await site.fetch(fetcher, unknown, DEVICES[0], stall_s=0.5)

    assert stalled.value.code is Code.FETCH_STALLED
    assert "missing" in stalled.value.detail


async def test_a_fetch_survives_a_restart_of_the_broker(site: Site) -> None:
    artifact = site.offer(make_artifact(6_000_000))
    fetcher = await site.fetcher(DEVICES[0])
    seen: list[Progress] = []
    fetching = asyncio.create_task(
        site.fetch(fetcher, artifact, DEVICES[0], on_progress=seen.append)
    )
    await until(lambda: seen and seen[-1].received_bytes > 500_000, "a part of it")

    await site.yard.go_down()
    await site.yard.come_up()
    result = await fetching

    assert artifact.is_whole_in(site.place(DEVICES[0]))
    assert result.received_bytes == artifact.index.length


async def test_what_a_device_may_not_have_is_not_published(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    need = Need(artifact="f" * 64, missing=b"\x01", seen=0, stream=STREAM, credit=4)

    site.publisher.hear("device-9", need)
    site.publisher.hear("device-9", need)

    assert caplog.text.count("event=need_refused") == 1
    assert site.publisher.sent.frames == 0
