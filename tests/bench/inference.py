"""Requests through the agent's server and worker, beside onnxruntime in process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

from quarterdeck_agent.runtime.server import Server
from quarterdeck_agent.update.slots import Slots
from quarterdeck_agent.update.unseal import Opener
from quarterdeck_controller.optimize.session import open_session
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.errors import QuarterdeckError
from tests.bench import exercises
from tests.bench.table import Figure
from tests.bench.timing import percentile, seconds
from tests.support.installed import install
from tests.support.meters import NotingMeter

MS = 1e3
CLIENTS = 4
WARM_UP = 20
PEER = "onnxruntime in process"


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Ask one by one, then under load while models are swapped."""
    slots = Slots(folder, SystemClock(), Opener("device-1", folder / "seal.key"))
    slots.prepare()
    models = [exercises.model_bytes(version) for version in (1, 2)]
    artifacts = [
        install(slots, model, exercises.golden_vectors(model), version=version)
        for version, model in enumerate(models, 1)
    ]
    return asyncio.run(_measure(slots, models[0], artifacts, quick=quick))


async def _measure(
    slots: Slots, model: bytes, artifacts: Sequence[str], *, quick: bool
) -> list[Figure]:
    async with _serving(slots) as (server, meter):
        await server.serve(artifacts[0])
        latency = await _latency(server, model, rounds=50 if quick else 1500)
        swaps = await _swap(server, meter, artifacts, times=1 if quick else 6)
    return [*latency, *swaps]


@asynccontextmanager
async def _serving(slots: Slots) -> AsyncIterator[tuple[Server, NotingMeter]]:
    meter = NotingMeter()
    server = Server(slots, meter, SystemClock())
    running = asyncio.create_task(server.run())
    try:
        yield server, meter
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _latency(server: Server, model: bytes, rounds: int) -> list[Figure]:
    """Return the latency of requests in turns with the bare runtime."""
    payload, feed = exercises.payload(), {exercises.INPUT: exercises.sample()}
    bare = open_session(model)
    ours, theirs, inside = [], [], []
    for number in range(WARM_UP + rounds):
        began = perf_counter()
        reply = await server.infer(payload)
        spent = perf_counter() - began
        peer = seconds(lambda: bare.run(None, feed))
        if number >= WARM_UP:
            ours.append(spent)
            theirs.append(peer)
            inside.append(reply.answer.latency_ns / 1e9)
    note = f"{1e3 * median(inside):.3f} ms of it in the worker's run()"
    return [
        Figure(
            f"request, batch 1: {name}",
            rounds,
            percentile(ours, share) * MS,
            "ms",
            PEER,
            percentile(theirs, share) * MS,
            note if share == 0.5 else f"payload {len(payload):,} bytes",
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


@dataclass
class _Load:
    """Clients that ask without a pause, and when each answer came."""

    server: Server
    asked: int = 0
    lost: int = 0
    answers: list[float] = field(default_factory=list)
    stopping: bool = False

    async def client(self, payload: bytes) -> None:
        while not self.stopping:
            self.asked += 1
            try:
                await self.server.infer(payload)
            except QuarterdeckError:
                self.lost += 1
            else:
                self.answers.append(perf_counter())

    def gap(self, start: float, end: float) -> float:
        """Return the longest time without an answer between two moments."""
        during = [at for at in self.answers if start <= at <= end]
        moments = [start, *during, end]
        return max(later - earlier for earlier, later in pairwise(moments))


async def _swap(
    server: Server, meter: NotingMeter, artifacts: Sequence[str], times: int
) -> list[Figure]:
    """Return what became of requests and pauses while the models were swapped."""
    load, payload = _Load(server), exercises.payload()
    clients = [asyncio.create_task(load.client(payload)) for _ in range(CLIENTS)]
    swapping, switching, steady = [], [], []
    for number in range(times):
        began = perf_counter()
        await asyncio.sleep(0.1)
        await server.prove(artifacts[1 - number % 2])
        proved = perf_counter()
        await server.serve(artifacts[1 - number % 2])
        await asyncio.sleep(0.1)
        ended = perf_counter()
        await asyncio.sleep(ended - began)
        swapping.append(load.gap(began, ended))
        switching.append(load.gap(proved, ended))
        steady.append(load.gap(ended, 2 * ended - began))
    load.stopping = True
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*clients), 30)
    lost = load.lost + meter.failures + meter.drops + load.asked - len(load.answers)
    return [
        Figure(
            "requests lost while swapping under load",
            load.asked,
            lost,
            "lost",
            "none",
            0,
            f"{times} swaps, {CLIENTS} clients without a pause",
        ),
        Figure(
            "longest pause between answers, swapping",
            times,
            max(swapping) * MS,
            "ms",
            "as long without a swap",
            max(steady) * MS,
            f"at the switch itself {max(switching) * MS:.1f} ms; median of swaps"
            f" {median(swapping) * MS:.1f} ms",
        ),
    ]
