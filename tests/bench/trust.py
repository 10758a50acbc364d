"""Judging and signing assignments, beside the bare cryptography in them."""

import asyncio
import cProfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import CodeType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope

from quarterdeck_agent.update.metadata import MetadataFetcher
from quarterdeck_agent.update.trust import Trust
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.repository.server import MetadataServer
from quarterdeck_shared.assignment import PAYLOAD_TYPE
from tests.bench.table import Figure
from tests.bench.timing import in_turns, seconds
from tests.support.attacks import BUILT, World
from tests.support.brokers import real_yard

DEVICE = "cam-1"
MS = 1e3
SIGNED_BYTES = 1000


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Accept assignments cold and warm over the bus, then sign some."""
    world = World(folder)
    found = asyncio.run(_accepting(world, folder, rounds=3 if quick else 15))
    return [*found, _signing(world, rounds=20 if quick else 500)]


@dataclass(frozen=True, slots=True)
class _Site:
    world: World
    fetcher: MetadataFetcher
    asked: list[str]

    def trust(self, state: str) -> Trust:
        """Return a device that fetches over the bus."""
        return Trust(
            self.world.state(state),
            device=DEVICE,
            device_class="cam",
            root=self.world.root,
            fetcher=self.fetcher,
            clock=self.world.clock,
            built=BUILT,
        )


async def _accepting(world: World, folder: Path, rounds: int) -> list[Figure]:
    first, second = world.assign(1), world.assign(2)
    cold, warm, local = [], [], []
    async with _site(world, folder) as site:
        for number in range(rounds):
            on_disk = world.device(state=f"disk-{number}")
            local.append(await _judging(on_disk, first))
            device = site.trust(f"bus-{number}")
            cold.append(await _judging(device, first))
            asked = len(site.asked)
            warm.append(await _judging(device, second))
            again = len(site.asked) - asked
    files = len(site.asked) // rounds - again
    counted, limit = world.device(state="counted"), _verification()
    return [
        _accepted("cold", cold, _costs(counted, first), limit, files),
        _accepted("warm", warm, _costs(counted, second), limit, again),
        Figure(
            "accept, cold: median",
            rounds,
            median(cold) * MS,
            "ms",
            "the files from disk, no bus",
            median(local) * MS,
            f"{files} files asked for, one after the other",
        ),
    ]


async def _judging(trust: Trust, envelope: bytes) -> float:
    """Return the seconds that it takes to accept ``envelope``."""
    return await asyncio.to_thread(seconds, lambda: trust.accept(envelope))


def _accepted(
    how: str, spans: list[float], costs: "_Costs", limit: float, files: int
) -> Figure:
    return Figure(
        f"accept, {how}: median",
        len(spans),
        median(spans) * MS,
        "ms",
        "its Ed25519 verifications",
        costs.verifications * limit * MS,
        f"{costs.verifications} verifications, {costs.syncs} fsyncs,"
        f" {files} files over the bus",
    )


@asynccontextmanager
async def _site(world: World, folder: Path) -> AsyncIterator[_Site]:
    yard = await real_yard("nats", folder, (DEVICE,))
    asked: list[str] = []

    def read(name: str) -> bytes | None:
        asked.append(name)
        return world.repository.read(name)

    controller, device = yard.bus("controller"), yard.bus(DEVICE)
    for bus in (controller, device):
        await bus.start()
        await bus.wait_connected(10)
    serving = asyncio.create_task(MetadataServer(controller, read).run())
    try:
        fetcher = MetadataFetcher(device, DEVICE, asyncio.get_running_loop(), 5)
        await fetcher.start()
        yield _Site(world, fetcher, asked)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await yard.end()


@dataclass(frozen=True, slots=True)
class _Costs:
    """What one accept cannot do without."""

    verifications: int
    syncs: int


def _costs(trust: Trust, envelope: bytes) -> _Costs:
    profile = cProfile.Profile()
    profile.runcall(trust.accept, envelope)
    calls = [(_called(entry.code), entry.callcount) for entry in profile.getstats()]
    return _Costs(
        sum(count for name, count in calls if name == "verify_signature"),
        sum(count for name, count in calls if name == "fsync"),
    )


def _called(code: CodeType | str) -> str:
    """Return the name of a profiled function that counts, else nothing."""
    if isinstance(code, str):
        return "fsync" if "posix.fsync" in code else ""
    return code.co_name if "securesystemslib" in code.co_filename else ""


def _verification() -> float:
    """Return the seconds of one bare verification."""
    key, data = Ed25519PrivateKey.generate(), bytes(SIGNED_BYTES)
    signature, public = key.sign(data), key.public_key()
    (cost,) = in_turns(500, lambda: public.verify(signature, data))
    return cost


def _signing(world: World, rounds: int) -> Figure:
    director, assignment = Director(world.home), world.assignment()
    key = Ed25519PrivateKey.generate()
    data = Envelope(assignment.encode(), PAYLOAD_TYPE, {}).pae()
    ours, bare = in_turns(
        rounds, lambda: director.sign(assignment), lambda: key.sign(data)
    )
    note = f"{len(data)} bytes signed, {len(director.sign(assignment))} sent"
    return Figure(
        "Director.sign", rounds, 1 / ours, "/s", "bare Ed25519", 1 / bare, note
    )
