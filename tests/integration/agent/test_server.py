"""The server with real workers running real models."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from quarterdeck_agent.runtime.server import LOOP_CRASHES, QUEUE_LENGTH, Server
from quarterdeck_agent.runtime.sources import DirectorySource, pump
from quarterdeck_agent.update.slots import Slots
from quarterdeck_agent.update.unseal import Opener
from quarterdeck_controller.repository.seal import Seals, key_name, seal
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from quarterdeck_shared.index import Limits, PartName, digest
from tests.support.brokers import until
from tests.support.installed import (
    endless_model,
    golden_vectors,
    hungry_model,
    install,
    linear_model,
    make_index,
    npy,
    npz,
)
from tests.support.meters import NotingMeter


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    slots = Slots(tmp_path, SystemClock(), Opener("device-1", tmp_path / "seal.key"))
    slots.prepare()
    return slots


@asynccontextmanager
async def serving(
    slots: Slots, *, request_s: float = 20
) -> AsyncIterator[tuple[Server, NotingMeter]]:
    meter = NotingMeter()
    server = Server(slots, meter, SystemClock(), request_s=request_s)
    running = asyncio.create_task(server.run())
    try:
        yield server, meter
    finally:
        pids = server.pids
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def test_a_sealed_model_is_proven_and_answers_without_plain_bytes_on_the_disk(
    tmp_path: Path, slots: Slots
) -> None:
    private = X25519PrivateKey.generate()
    (tmp_path / "seal.key").write_bytes(private.private_bytes_raw())
    files: dict[PartName, bytes] = {
        "model.onnx": linear_model(2),
        "golden.npz": golden_vectors(2),
    }
    sealed = seal(files, 1024)
    plain = make_index({name: files[name] for name in files})
    index = plain.model_copy(update={"parts": sealed.parts})
    seals = Seals(tmp_path / "controller")
    seals.keep(key_name(index), sealed.key.encode())
    seal_key = private.public_key().public_bytes_raw()
    artifact = digest(index.encode())
    content_key = seals.wrap(index, device="device-1", seal_key=seal_key)
    folder = slots.stage(artifact, index, content_key)
    for name, data in sealed.files.items():
        (folder / name).write_bytes(data)

    async with serving(slots) as (server, _):
        report = await server.prove(artifact)
        await server.serve(artifact)
        reply = await server.infer(npy())

    assert report.agreed == report.clear == 8
    assert reply.answer.top == 2
    assert (folder / "model.onnx").read_bytes() != files["model.onnx"]


async def test_a_proven_model_reproduces_its_vectors_and_then_answers(
    slots: Slots,
) -> None:
    artifact = install(slots, linear_model(1), golden_vectors(1))

    async with serving(slots) as (server, meter):
        report = await server.prove(artifact)
        await server.serve(artifact)
        reply = await server.infer(npy())

    assert (report.count, report.clear, report.agreed) == (8, 8, 8)
    assert report.error < 1e-5
    assert reply.artifact == artifact
    assert reply.answer.top == 1
    assert 0.99 < reply.answer.score <= 1
    assert meter.swaps == [artifact]


async def test_a_wrong_model_is_seen_to_differ(slots: Slots) -> None:
    artifact = install(slots, linear_model(0), golden_vectors(2))

    async with serving(slots) as (server, _):
        report = await server.prove(artifact)

    assert report.agreed < report.clear
    assert report.error > 0.5


async def test_a_hand_over_under_load_drops_nothing_and_mixes_nothing(
    slots: Slots,
) -> None:
    first = install(slots, linear_model(0), golden_vectors(0))
    second = install(slots, linear_model(2), golden_vectors(2), version=2)
    expected = {first: 0, second: 2}
    seen: list[tuple[str, int]] = []
    stop = asyncio.Event()

    async def load(server: Server) -> None:
        while not stop.is_set():
            reply = await server.infer(npy())
            seen.append((reply.artifact, reply.answer.top))

    async with serving(slots) as (server, meter):
        await server.serve(first)
        clients = [asyncio.create_task(load(server)) for _ in range(8)]
        for artifact in (second, first, second):
            before = len(seen)
            await until(lambda n=before: len(seen) > n + 200, "load")  # type: ignore[misc]  # a loop variable bound by default
            await server.prove(artifact)
            await server.serve(artifact)
        before = len(seen)
        await until(lambda: len(seen) > before + 200, "load on the last")
        stop.set()
        await asyncio.gather(*clients)

    assert Counter(expected[artifact] == top for artifact, top in seen) == {
        True: len(seen)
    }
    assert (meter.failures, meter.drops) == (0, 0)
    assert len(meter.answers) == len(seen)
    assert meter.swaps == [first, second, first, second]
    changes = [a for a, b in pairwise(seen) if a[0] != b[0]]
    assert len(changes) == 3


async def test_a_killed_worker_is_started_again_and_requests_wait_for_it(
    slots: Slots,
) -> None:
    artifact = install(slots, linear_model(0), golden_vectors(0))

    async with serving(slots) as (server, meter):
        await server.serve(artifact)
        os.kill(server.pids[0], signal.SIGKILL)
        await until(lambda: meter.restarts, "the crash")
        reply = await server.infer(npy())
        tally = server.tally()

    assert reply.answer.top == 0
    assert tally.crashes == 1
    assert "SIGKILL" in tally.cause


async def test_a_worker_that_hangs_is_ended_at_its_deadline(slots: Slots) -> None:
    artifact = install(slots, endless_model(), golden_vectors(0))

    async with serving(slots, request_s=1) as (server, _):
        await server.serve(artifact)
        with pytest.raises(QuarterdeckError) as caught:
            await server.infer(npy())
        await until(lambda: server.tally().crashes, "the end of the worker")
        tally = server.tally()

    assert caught.value.code is Code.WORKER_HUNG
    assert tally.hangs == 1


async def test_a_model_that_wants_too_much_memory_cannot_have_it(slots: Slots) -> None:
    limits = Limits(latency_ms=1000, memory_mb=256)
    artifact = install(slots, hungry_model(16), golden_vectors(0), limits=limits)

    async with serving(slots) as (server, _):
        with pytest.raises(QuarterdeckError) as caught:
            await server.prove(artifact)

    assert caught.value.code in (
        Code.PROBATION_FAILED,
        Code.LOAD_FAILED,
        Code.MEMORY_EXCEEDED,
        Code.WORKER_CRASHED,
    )


async def test_a_worker_past_its_memory_is_ended(slots: Slots) -> None:
    limits = Limits(latency_ms=1000, memory_mb=8)
    artifact = install(slots, linear_model(0), golden_vectors(0), limits=limits)

    async with serving(slots) as (server, _):
        await server.serve(artifact)
        await server.infer(npy())
        await until(lambda: server.tally().bloats, "the end of the worker")
        tally = server.tally()

    assert "at most 8 are allowed" in tally.cause


@pytest.mark.parametrize(
    ("payload", "code", "word"),
    [
        (b"", Code.REQUEST_INVALID, "not a .npy"),
        (b"garbage", Code.REQUEST_INVALID, "not a .npy"),
        (npy()[:-4], Code.REQUEST_INVALID, "not a .npy"),
        (b"PK\x03\x04broken", Code.REQUEST_INVALID, "not a .npy"),
        (npy((1.0, 2.0)), Code.DATA_INVALID, "float32 1x2"),
        (npz({"y": np.zeros(4)}), Code.DATA_INVALID, "takes ['x']"),
    ],
)
async def test_a_bad_request_gets_an_answer_that_says_what_is_wrong(
    slots: Slots, payload: bytes, code: Code, word: str
) -> None:
    artifact = install(slots, linear_model(0), golden_vectors(0))

    async with serving(slots) as (server, _):
        await server.serve(artifact)
        with pytest.raises(RejectedError) as caught:
            await server.infer(payload)
        reply = await server.infer(npy())

    assert caught.value.code is code
    assert word in caught.value.detail
    assert reply.answer.top == 0


async def test_pickled_objects_are_never_loaded(slots: Slots, tmp_path: Path) -> None:
    path = tmp_path / "evil.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    artifact = install(slots, linear_model(0), golden_vectors(0))

    async with serving(slots) as (server, _):
        await server.serve(artifact)
        with pytest.raises(RejectedError) as caught:
            await server.infer(path.read_bytes())

    assert caught.value.code is Code.REQUEST_INVALID


async def test_a_file_that_is_no_model_fails_to_load(slots: Slots) -> None:
    artifact = install(slots, b"not an onnx model", golden_vectors(0))

    async with serving(slots) as (server, _):
        with pytest.raises(RejectedError) as caught:
            await server.prove(artifact)

    assert caught.value.code is Code.LOAD_FAILED


async def test_damaged_bytes_are_never_loaded(slots: Slots) -> None:
    artifact = install(slots, linear_model(0), golden_vectors(0))
    model = slots.folder(artifact) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")

    async with serving(slots) as (server, _):
        with pytest.raises(RejectedError) as caught:
            await server.prove(artifact)

    assert caught.value.code is Code.ARTIFACT_INVALID


async def test_a_crash_loop_is_told(slots: Slots) -> None:
    artifact = install(slots, b"not an onnx model", golden_vectors(0))
    told: list[str] = []

    async with serving(slots) as (server, meter):
        server.on_crash_loop = told.append
        await server.serve(artifact)
        await until(lambda: told, "the crash loop", timeout_s=40)

    assert told[0] == artifact
    assert len(meter.restarts) >= LOOP_CRASHES


async def test_without_a_model_a_request_is_turned_away(slots: Slots) -> None:
    async with serving(slots) as (server, _):
        with pytest.raises(RejectedError) as caught:
            await server.infer(npy())

    assert caught.value.code is Code.NOTHING_ACTIVE


async def test_samples_that_come_before_a_model_wait_for_it(
    slots: Slots, tmp_path: Path
) -> None:
    artifact = install(slots, linear_model(0), golden_vectors(0))
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("a.npy", "b.npy"):
        (folder / name).write_bytes(npy())
    source = DirectorySource(folder, interval_s=0, repeat=False)

    async with serving(slots) as (server, meter):
        pumping = asyncio.create_task(pump(source, server))
        await until(lambda: source._taken, "the first sample")
        await server.serve(artifact)
        await until(lambda: len(meter.answers) == 2, "both answers")
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)

    assert meter.answers == [(artifact, 0), (artifact, 0)]


async def test_requests_past_the_bound_are_turned_away_at_once(slots: Slots) -> None:
    artifact = install(slots, linear_model(0), golden_vectors(0))

    async with serving(slots) as (server, meter):
        await server.serve(artifact)
        many = [server.infer(npy()) for _ in range(QUEUE_LENGTH + 10)]
        results = await asyncio.gather(*many, return_exceptions=True)

    turned_away = [r for r in results if isinstance(r, QuarterdeckError)]
    assert len(turned_away) == 10
    assert {error.code for error in turned_away} == {Code.OVERLOADED}
    assert meter.drops == 10
