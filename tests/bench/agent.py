"""A real agent: its start, its memory and its idle CPU, beside bare processes."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.enrol import write_bundle
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.attest import attester
from quarterdeck_shared.clock import SystemClock
from tests.bench import exercises
from tests.bench.table import Figure
from tests.support.brokers import until
from tests.support.identities import device_identity, write_identity
from tests.support.releases import evaluation, vouchers
from tests.support.site import (
    CLASS,
    Seen,
    Site,
    running_site,
    status,
    stop,
    until_status,
)

DEVICE, OTHER = "cam-1", "cam-2"
PERIOD_S = 0.2
PATIENCE_S = 30.0
MB = 1024.0

BARE_MODEL = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
session.run(None, {sys.argv[3]: numpy.load(sys.argv[2])})
print("ran", flush=True)
sys.stdin.read()
"""
BARE_CLIENT = """
import sys
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
bundle, port = sys.argv[1], int(sys.argv[2])
client = Client(CallbackAPIVersion.VERSION2, "bare")
identity = f"{bundle}/state/identity.pem"
client.tls_set(f"{bundle}/ca.pem", identity, identity)
client.on_connect = lambda *_: print("connected", flush=True)
client.connect("127.0.0.1", port)
client.loop_start()
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class _Memory:
    """Resident memory of a process, MiB; ``pss`` shares out what others map too."""

    rss: float
    pss: float


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Start agents that have a model, then leave one of them alone."""
    rounds, idle_s = (1, 1.0) if quick else (5, 10.0)
    return asyncio.run(_measure(folder, rounds, idle_s))


async def _measure(folder: Path, rounds: int, idle_s: float) -> list[Figure]:
    async with running_site(folder) as site:
        bundle = await _enrolled(site)
        await _committed(site, bundle)
        started = await _starts(site, bundle, rounds)
        return [*started, *await _at_rest(site, bundle, idle_s)]


async def _enrolled(site: Site) -> Path:
    """Return the bundle of a device with one sample and a fast window."""
    samples = site.folder / "samples"
    samples.mkdir()
    (samples / "one.npy").write_bytes(exercises.payload())
    await site.broker.admit(Admission((Grant(DEVICE, CLASS), Grant(OTHER, CLASS))))
    site.seen[DEVICE] = Seen()
    bundles = [
        write_bundle(
            site.home,
            device,
            CLASS,
            site.folder / device,
            SystemClock(),
            source=samples,
            interval_s=0.02,
            telemetry_period_s=PERIOD_S,
        )
        for device in (DEVICE, OTHER)
    ]
    authority = Authority.open(site.home.authority)
    for bundle in bundles:
        write_identity(bundle, device_identity(authority, bundle.name, CLASS))
    return bundles[0]


async def _committed(site: Site, bundle: Path) -> None:
    """Have the device commit the demo's float model, then stop it."""
    variant = site.folder / "variants" / CLASS
    variant.mkdir(parents=True)
    model = exercises.model_bytes(1)
    files = {"model.onnx": model, "golden.npz": exercises.golden_vectors(model)}
    record = evaluation(device_class=CLASS, files=files)
    record = record.model_copy(update={"labels": ()})
    files["evaluation.json"] = record.encode()
    vouch = attester(vouchers(site.home))
    files["provenance.json"] = vouch(record, files["evaluation.json"])
    for name, data in files.items():
        (variant / name).write_bytes(data)
    release = create_release(site.home, variant.parent, "model", 1, SystemClock())
    agent = site.start(bundle)
    await site.assign(DEVICE, release, 1)
    await site.until_outcome(DEVICE, 1, "committed")
    await stop(agent)


async def _starts(site: Site, bundle: Path, rounds: int) -> list[Figure]:
    """Return the seconds from the start of a process to its first inference."""
    serving, inferring, bare = [], [], []
    for _ in range(rounds):
        began = perf_counter()
        agent = await _until_serving(site, bundle)
        serving.append(perf_counter() - began)
        seen = site.seen[DEVICE]
        await until(partial(_has_inferred, seen), "an inference", timeout_s=PATIENCE_S)
        inferring.append(perf_counter() - began)
        await stop(agent)
        began = perf_counter()
        with _bare_model(site):
            bare.append(perf_counter() - began)
    late = f"seen in a window at the controller, up to {PERIOD_S:g} s late"
    spans = (("serving", serving, ""), ("first inference", inferring, late))
    return [
        Figure(
            f"start to {what}",
            rounds,
            median(ours),
            "s",
            "bare import, load, run",
            median(bare),
            note,
        )
        for what, ours, note in spans
    ]


async def _until_serving(site: Site, bundle: Path) -> "subprocess.Popen[bytes]":
    """Start the agent and return it once its log says that its model serves."""
    site.seen[DEVICE] = Seen()
    log = bundle / "log"
    log.unlink()
    agent = site.start(bundle)
    await until(
        lambda: "serves, loaded" in log.read_text("utf-8"), "serving", timeout_s=30
    )
    return agent


def _has_inferred(seen: Seen) -> bool:
    """Return whether this boot has inferred; windows of the one before come late."""
    boots = {state.boot for state in seen.states if state.online}
    return any(w.boot in boots and w.requests > w.errors for w in seen.windows)


async def _at_rest(site: Site, bundle: Path, idle_s: float) -> list[Figure]:
    """Return memory and CPU of an agent that is given nothing to do."""
    _slow_down(bundle / "agent.toml")
    agent = site.start(bundle)
    shown = await until_status(bundle, lambda s: s.get("worker_pids"), "a worker")
    await until_status(bundle, lambda s: s.get("totals"), "an inference")
    assert isinstance(shown["worker_pids"], list)
    (worker,) = shown["worker_pids"]
    with _bare_model(site) as model, _bare_client(site) as client:
        pids = {
            "control": agent.pid,
            "worker": worker,
            "client": client,
            "model": model,
        }
        memory = {name: _memory(pid) for name, pid in pids.items()}
        spent = await _cpu_over(pids, idle_s)
    assert status(bundle)["serving"]
    await stop(agent, signal.SIGTERM)
    return [
        *_sizes("control process", memory["control"], "bare paho", memory["client"]),
        *_sizes("worker", memory["worker"], "bare onnxruntime", memory["model"]),
        _idle(
            "control process", spent["control"], "bare paho", spent["client"], idle_s
        ),
        _idle("worker", spent["worker"], "bare onnxruntime", spent["model"], idle_s),
    ]


def _sizes(who: str, ours: _Memory, against: str, other: _Memory) -> list[Figure]:
    return [
        Figure(f"{who}: PSS", 1, ours.pss, "MiB", against, other.pss),
        Figure(f"{who}: RSS", 1, ours.rss, "MiB", against, other.rss),
    ]


def _idle(who: str, ours: float, against: str, other: float, idle_s: float) -> Figure:
    what = f"{who}: idle CPU over {idle_s:g} s"
    return Figure(what, 1, 100 * ours, "% of a core", against, 100 * other)


async def _cpu_over(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """Return the share of a core that each process uses while nothing happens."""
    before, began = {name: _cpu_s(pid) for name, pid in pids.items()}, perf_counter()
    await asyncio.sleep(seconds)
    span = perf_counter() - began
    return {name: (_cpu_s(pid) - before[name]) / span for name, pid in pids.items()}


def _cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _memory(pid: int) -> _Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (
        re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        for name in ("Rss", "Pss")
    )
    assert rss is not None
    assert pss is not None
    return _Memory(int(rss[1]) / MB, int(pss[1]) / MB)


def _slow_down(config: Path) -> None:
    """Have the agent take one sample an hour and close a window a minute."""
    text = config.read_text("utf-8")
    for name, value in (("interval_s", 3600), ("period_s", 60)):
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        assert count == 1
    config.write_text(text, "utf-8")


def _bare_model(site: Site) -> AbstractContextManager[int]:
    model = site.folder / "variants" / CLASS / "model.onnx"
    sample = site.folder / "samples" / "one.npy"
    return _bare(BARE_MODEL, str(model), str(sample), exercises.INPUT)


def _bare_client(site: Site) -> AbstractContextManager[int]:
    port = site.home.settings().broker.port
    return _bare(BARE_CLIENT, str(site.folder / OTHER), str(port))


@contextmanager
def _bare(script: str, *arguments: str) -> Iterator[int]:
    """Give the pid of a Python process once it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the bare process ended")
        yield process.pid
    finally:
        process.communicate(timeout=PATIENCE_S)
