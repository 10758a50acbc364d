"""Run the peers and the optimizer on a task; each in its own processes."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.quantization.fetch import CACHE, UnavailableError
from tests.bench.quantization.peers.registry import (
    MEMORY_BYTES,
    PEERS,
    QUANTIZE_S,
)
from tests.bench.quantization.process import FailedError, Spent, run
from tests.bench.quantization.record import read_record
from tests.bench.quantization.row import Row, keep_row, kept_row, measured
from tests.bench.quantization.task import Task
from tests.bench.quantization.venvs import python

CLASSES = ("gateway-x86-vnni", "gateway-x86", "board-arm64", "accelerator-int8")
OPTIMIZE_S = 7200
EMULATION = "QUARTERDECK_EMULATION"
SOME_REFUSED = 3
"""Exit code of the command when a class was refused, which is an answer as well."""


def peer_rows(task: Task, names: Sequence[str], *, again: bool) -> Iterator[Row]:
    """Yield what the peers reach; from the cache, as peers do not change."""
    for name in names:
        file = peer_file(task, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        row = None if again else kept_row(file.with_suffix(".json"))
        if row is None:
            row = keep_row(file.with_suffix(".json"), _peer_row(task, name, file))
        yield row


def peer_file(task: Task, name: str) -> Path:
    """Return where a peer's variant of the task is kept."""
    stem = name.replace(" ", "-")
    return CACHE / "peers" / task.model.parent.name / f"{stem}.onnx"


def our_rows(
    task: Task, classes: Sequence[str], words: Sequence[str] = ()
) -> list[Row]:
    """Return what the optimizer gives for each class, measured anew here.

    Args:
        task: What to optimize.
        classes: Device classes, in one call as a user would.
        words: More arguments of the command.
    """
    out = CACHE / "ours" / task.model.parent.name
    shutil.rmtree(out, ignore_errors=True)
    try:
        spent = _optimize(task, classes, out, words)
    except FailedError as error:
        return [Row(task.name, f"ours {one}", failure=str(error)) for one in classes]
    return [_our_row(task, one, out / one, spent) for one in classes]


def _peer_row(task: Task, name: str, out: Path) -> Row:
    peer = PEERS[name]
    interpreter = sys.executable
    try:
        if peer.installs:
            interpreter = str(python(peer.module, *peer.installs))
    except UnavailableError as error:
        return Row(task.name, name, failure=str(error))
    module = f"tests.bench.quantization.peers.{peer.module}"
    files = [str(one) for one in (task.model, task.calibration, out)]
    command = [interpreter, "-m", module, peer.how_for(task.name), *files]
    try:
        spent = run(command, QUANTIZE_S, memory_bytes=MEMORY_BYTES)
    except FailedError as error:
        return Row(task.name, name, failure=str(error))
    found = measured(task, name, out)
    return replace(found, seconds=spent.wall, cpu_seconds=spent.cpu)


def _optimize(
    task: Task, classes: Sequence[str], out: Path, words: Sequence[str]
) -> Spent:
    command = [str(Path(sys.executable).with_name("quarterdeck")), "model", "optimize"]
    command += [str(task.model), "--name", task.name, "--metric", task.metric]
    command += ["--calibration", str(task.calibration)]
    command += ["--evaluation", str(task.evaluation), "--out", str(out)]
    for one in classes:
        command += ["--class", one]
    # an empty cache: what an earlier run found must not shorten this one
    with tempfile.TemporaryDirectory() as folder:
        environment = {EMULATION: str(CACHE.parent / "emulation"), **os.environ}
        environment["XDG_CACHE_HOME"] = folder
        return run(
            [*command, *words],
            OPTIMIZE_S,
            fine=(0, SOME_REFUSED),
            environment=environment,
        )


def _our_row(task: Task, name: str, folder: Path, spent: Spent) -> Row:
    """Return the class's row: the record's decision, but figures of our own."""
    by = f"ours {name}"
    try:
        record = read_record(folder)
    except (OSError, ValueError, KeyError) as error:
        return Row(task.name, by, failure=f"no record: {error}")
    found = Row(task.name, by)
    if (folder / "model.onnx").is_file():
        found = measured(task, by, folder / "model.onnx", session=record.session)
    return replace(
        found,
        recipe=record.recipe,
        decision=record.decision,
        reason=record.reason,
        told=record.told,
        floor=record.floor,
        half=record.half,
        lost_db=record.lost_db,
        seconds=record.seconds,
        cpu_seconds=spent.cpu,
    )
