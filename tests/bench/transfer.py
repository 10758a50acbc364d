"""Artifacts broadcast to eight devices, beside a plain TLS stream for each."""

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from quarterdeck_agent.update.fetch import Fetcher
from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.transfer import Need
from tests.bench.table import Figure
from tests.support.artifacts import Artifact, make_artifact
from tests.support.brokers import CLASS, RealYard, free_port, real_yard

DEVICES = tuple(f"device-{number}" for number in range(8))
STREAM = 4711
MB = 1e6
READ_BYTES = 64 * 1024


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Send each size both ways."""
    sizes = (1_000_000,) if quick else (4_000_000, 20_000_000)
    return asyncio.run(_measure(folder, sizes))


async def _measure(folder: Path, sizes: tuple[int, ...]) -> list[Figure]:
    yard = await real_yard("nats", folder, DEVICES)
    found: list[Figure] = []
    try:
        async with _site(yard) as site:
            for number, size in enumerate(sizes, 1):
                artifact = make_artifact(size, seed=number)
                found += await _both(site, artifact, folder / str(number))
    finally:
        await yard.end()
    return found


@dataclass
class _Site:
    yard: RealYard
    publisher: Publisher
    fetchers: dict[str, Fetcher]
    offered: dict[str, Artifact]


@asynccontextmanager
async def _site(yard: RealYard) -> AsyncIterator[_Site]:
    offered: dict[str, Artifact] = {}
    controller = yard.bus("controller")
    publisher = Publisher(
        controller,
        lambda digest, number: offered[digest].chunk(number),
        lambda digest: topics.chunks(CLASS, digest) if digest in offered else None,
        stream=STREAM,
        clock=SystemClock(),
    )

    def hear(message: Message) -> None:
        came = topics.parse_up(message.topic)
        assert came is not None
        publisher.hear(came.device, Need.decode(message.payload))

    await controller.start()
    await controller.wait_connected(10)
    await controller.subscribe(topics.up_any(topics.UP_NEED), hear)
    fetchers = {device: await _fetcher(yard, device) for device in DEVICES}
    running = asyncio.create_task(publisher.run())
    try:
        yield _Site(yard, publisher, fetchers, offered)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _fetcher(yard: RealYard, device: str) -> Fetcher:
    bus = yard.bus(device)
    await bus.start()
    await bus.wait_connected(10)
    return Fetcher(bus, device, CLASS, SystemClock(), lambda: STREAM)


async def _both(site: _Site, artifact: Artifact, folder: Path) -> list[Figure]:
    length = artifact.index.length
    before = site.publisher.sent.bytes
    began = perf_counter()
    await _broadcast(site, artifact, folder / "broadcast")
    ours = perf_counter() - began
    assert all(artifact.is_whole_in(folder / "broadcast" / it) for it in DEVICES)
    egress = (site.publisher.sent.bytes - before) / length
    plain = await _plain(site.yard, artifact, folder / "plain")
    name, count = f"{length / MB:.0f} MB to {len(DEVICES)}", len(DEVICES)
    peer = "plain TLS streams"
    rate = length * count / MB
    each = "all ends but the broker in one process and loop, on both sides"
    return [
        Figure(f"{name}: until all have it", count, ours, "s", peer, plain, each),
        Figure(
            f"{name}: verified and on disk",
            count,
            rate / ours,
            "MB/s",
            peer,
            rate / plain,
        ),
        Figure(
            f"{name}: controller's egress",
            count,
            egress,
            "copies",
            "a pull per device",
            count,
            f"{len(artifact.index.chunk_list())} chunks",
        ),
    ]


async def _broadcast(site: _Site, artifact: Artifact, folder: Path) -> None:
    site.offered[artifact.digest] = artifact
    for device in DEVICES:
        (folder / device).mkdir(parents=True)
    await asyncio.gather(
        *(
            fetcher.fetch(artifact.digest, artifact.index, folder / device)
            for device, fetcher in site.fetchers.items()
        )
    )


async def _plain(yard: RealYard, artifact: Artifact, folder: Path) -> float:
    """Return the seconds in which as many plain streams carry the same bytes."""
    folder.mkdir(parents=True)
    data = b"".join(artifact.parts.values())
    serving = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(yard.authority.root_file)
    )
    serving.verify_mode = ssl.CERT_REQUIRED
    serving.load_cert_chain(yard.folder / "broker.pem", yard.folder / "broker.key")

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(data), READ_BYTES):
            writer.write(data[at : at + READ_BYTES])
            await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(send, "127.0.0.1", port, ssl=serving):
        began = perf_counter()
        await asyncio.gather(
            *(_receive(yard, port, device, folder, artifact) for device in DEVICES)
        )
        return perf_counter() - began


async def _receive(
    yard: RealYard, port: int, device: str, folder: Path, artifact: Artifact
) -> None:
    """Hash and write what comes, chunk by chunk, as the agent does."""
    context = ssl.create_default_context(cafile=str(yard.authority.root_file))
    context.load_cert_chain(
        yard.folder / f"{device}.pem", yard.folder / f"{device}.key"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    with (folder / device).open("wb", buffering=0) as file:
        for chunk in artifact.index.chunk_list():
            data = await reader.readexactly(chunk.length)
            assert hashlib.sha256(data).hexdigest() == chunk.sha256
            file.write(data)
        os.fsync(file.fileno())
    writer.close()
