"""Telemetry windows decoded, checked and stored, beside a bare executemany."""

import random
import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.monitor.ingest import BATCH, Ingest
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import Window
from quarterdeck_shared.topics import UP_TELEMETRY, up
from tests.bench.table import Figure
from tests.support.rollouts import START

DEVICES = 1000
REQUESTS = 60
CLASSES = 7

Batch = list[Message]


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Take batches in by turns: through the controller, and as bare rows."""
    batches = [_batch(number) for number in range(2 if quick else 20)]
    bare = _bare(folder / "bare.db")
    with Store.open(folder / "fleet.db") as store:
        _enrol(store)
        # take() stores and returns; what would be sent then is not part of it
        ingest = Ingest(MemoryBus(MemoryBroker(), "c"), store, SystemClock())
        ours, theirs = [], []
        for number, batch in enumerate(batches):
            ours.append(_spent(partial(ingest.take, batch)))
            theirs.append(_spent(partial(_insert, bare, number, batch)))
        assert ingest.counts.stored == len(batches) * BATCH
    bare.close()
    decoding = [_spent(partial(_decode, batch)) for batch in batches]
    return _figures(ours, theirs, decoding, batches)


def _figures(
    ours: Sequence[tuple[float, float]],
    theirs: Sequence[tuple[float, float]],
    decoding: Sequence[tuple[float, float]],
    batches: Sequence[Batch],
) -> list[Figure]:
    peer, count = "bare executemany", len(batches) * BATCH
    size = median(len(message.payload) for message in batches[0])
    alone = BATCH / median(span for span, _ in decoding)
    notes = (
        f"windows of {size:.0f} bytes, {BATCH} a commit, synced on both sides",
        f"decoding alone: {alone:,.0f}/s",
    )
    return [
        Figure(
            f"windows stored a {of}",
            count,
            BATCH / median(spent[at] for spent in ours),
            "/s",
            peer,
            BATCH / median(spent[at] for spent in theirs),
            notes[at],
        )
        for at, of in enumerate(("second", "CPU-second"))
    ]


def _spent(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds on the wall and of this process's CPU."""
    wall, cpu = perf_counter(), process_time()
    work()
    return perf_counter() - wall, process_time() - cpu


def _enrol(store: Store) -> None:
    with store.write() as records:
        for number in range(DEVICES):
            enrol(records, _name(number), "gateway", tags=(), now=START)


def _batch(sequence: int) -> Batch:
    """Return a minute's windows of the whole fleet."""
    rng = random.Random(sequence)
    return [
        Message(
            up(_name(number % DEVICES), UP_TELEMETRY), _window(sequence, rng).encode()
        )
        for number in range(BATCH)
    ]


def _window(sequence: int, rng: random.Random) -> Window:
    latency, confidence = Sketch(), [0] * 16
    for _ in range(REQUESTS):
        latency.add(int(1e6 * rng.lognormvariate(0, 0.4)))
        confidence[min(15, int(16 * rng.betavariate(8, 2)))] += 1
    counts = [REQUESTS // CLASSES] * CLASSES
    return Window(
        boot=4711,
        sequence=sequence + 1,
        artifact="0123456789abcdef",
        started=START + timedelta(minutes=sequence),
        duration=timedelta(minutes=1),
        requests=REQUESTS,
        latency=latency,
        confidence=tuple(confidence),
        classes=dict(enumerate(counts)),
        label_total=REQUESTS,
        label_ok=REQUESTS - 5,
        rss_mb=90,
    )


def _decode(batch: Batch) -> None:
    for message in batch:
        Window.decode(message.payload)


def _bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(
        "CREATE TABLE windows (device TEXT, sequence INTEGER, body BLOB,"
        " PRIMARY KEY (device, sequence))"
    )
    return connection


def _insert(connection: sqlite3.Connection, sequence: int, batch: Batch) -> None:
    rows = [(message.topic, sequence, message.payload) for message in batch]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO windows VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")


def _name(number: int) -> str:
    return f"device-{number:05}"
