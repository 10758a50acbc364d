"""What the benchmark found of one variant, and how it finds it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.bench.quantization.feed import read
from tests.bench.quantization.fetch import CACHE
from tests.bench.quantization.judge import JUDGES, Answers, character_errors
from tests.bench.quantization.process import FailedError, step
from tests.bench.quantization.task import Task

ROUNDS, LEAST_ROUNDS, LATENCY_S = 400, 30, 8.0
LINES = "line"


@dataclass(frozen=True, slots=True)
class Row:
    """A variant beside float, as this benchmark measured it.

    Attributes:
        by: Who made it; ``float`` is the model itself, ``ours CLASS`` the optimizer.
        failure: Why there are no figures, or empty.
        score: Share of right answers over the whole evaluation file.
        drop: Percentage points below float.
        agreement: Share of answers that are float's.
        size_ratio: Bytes of the file as a share of float's.
        latency_ratio: Time of an inference as a share of float's, run in turns.
        seconds: To make it, on the wall.
        cpu_seconds: The same of processors; for the optimizer of all classes together.
        errors: Share of wrong characters, where the answers are lines.
        recipe: What was done, as its maker calls it.
        decision: The optimizer's, else empty.
        reason: The same.
        told: What the optimizer's own record says of the same: score, drop in points
            and latency ratio.
        floor: Latency and size ratio of the weights-only candidate, by its record.
        half: Whether the half-precision candidate ran, by its record.
        lost_db: What each emulated processor loses against here, by its record.
    """

    task: str
    by: str
    failure: str = ""
    samples: int = 0
    score: float = 0.0
    drop: float = 0.0
    agreement: float = 0.0
    bytes: int = 0
    size_ratio: float = 0.0
    latency_ms: float = 0.0
    latency_ratio: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    errors: float | None = None
    recipe: str = ""
    decision: str = ""
    reason: str = ""
    told: tuple[float, float, float] | None = None
    floor: tuple[float, float] | None = None
    half: bool | None = None
    lost_db: tuple[tuple[str, float], ...] = ()


def float_row(task: Task) -> Row:
    """Return what the float model reaches."""
    return measured(task, "float", task.model)


def measured(
    task: Task,
    by: str,
    variant: Path,
    *,
    session: Mapping[str, object] | None = None,
) -> Row:
    """Return what ``variant`` reaches; a row that says why where it fails."""
    options = dict(session or {})
    try:
        mine = _answers(task, variant, options)
        floats = _answers(task, task.model, {})
        spent = step(
            "latency",
            model=variant,
            reference=task.model,
            data=task.evaluation,
            session=options,
            rounds=ROUNDS,
            least=LEAST_ROUNDS,
            seconds=LATENCY_S,
        )
    except FailedError as error:
        return Row(task.name, by, failure=str(error))
    data = read(task.evaluation)
    right = JUDGES[task.judge].right
    score = float(np.mean(right(mine, data)))
    size, original = variant.stat().st_size, task.model.stat().st_size
    return Row(
        task=task.name,
        by=by,
        samples=len(mine),
        score=score,
        drop=100 * (float(np.mean(right(floats, data))) - score),
        agreement=float(np.mean([a == b for a, b in zip(mine, floats, strict=True)])),
        bytes=size,
        size_ratio=size / original,
        latency_ms=spent["ms"],
        latency_ratio=spent["ratio"],
        errors=character_errors(mine, data) if task.judge == LINES else None,
    )


def _answers(task: Task, model: Path, session: Mapping[str, object]) -> Answers:
    """Return what a model says, from the cache where it was asked before."""
    key = hashlib.sha256(model.read_bytes())
    key.update(task.evaluation.read_bytes())
    key.update(json.dumps([task.judge, session], sort_keys=True).encode())
    kept = CACHE / "answers" / f"{key.hexdigest()}.json"
    if not kept.is_file():
        found = step(
            "answers",
            model=model,
            data=task.evaluation,
            judge=task.judge,
            session=session,
        )
        write_json(kept, found["answers"])
    answers = json.loads(kept.read_text("utf-8"))
    assert isinstance(answers, list)
    return answers


def write_json(path: Path, value: object) -> None:
    """Write ``value``, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value), "utf-8")
    partial.replace(path)


def keep_row(path: Path, row: Row) -> Row:
    """Write the row and return it."""
    write_json(path, asdict(row))
    return row


def kept_row(path: Path) -> Row | None:
    """Return the row that was written, or None."""
    if not path.is_file():
        return None
    held = json.loads(path.read_text("utf-8"))
    for name in ("told", "floor"):
        found = held.pop(name, None)
        held[name] = None if found is None else tuple(found)
    lost = held.pop("lost_db", ())
    return Row(**held, lost_db=tuple((name, value) for name, value in lost))
