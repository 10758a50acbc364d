"""What the optimizer's own records say, for targets that only they can tell."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = "here"
FLOOR, HALF = "weights-s8", "fp16"


@dataclass(frozen=True, slots=True)
class Record:
    """What ``evaluation.json`` and ``search.json`` say of one class.

    Attributes:
        session: How the variant is opened.
        seconds: Of the class's search.
        told: Score, drop in points and latency ratio; None when there is no variant.
        floor: Latency and size ratio of the weights-only variant, or None.
        half: Whether the half-precision variant ran; None when it was not tried.
        lost_db: What emulated processors lose against here, by processor.
    """

    recipe: str
    decision: str
    reason: str
    session: dict[str, Any]
    seconds: float
    told: tuple[float, float, float] | None
    floor: tuple[float, float] | None
    half: bool | None
    lost_db: tuple[tuple[str, float], ...]


def read_record(folder: Path) -> Record:
    """Return what the records in ``folder`` say.

    Raises:
        OSError: They are not there.
        ValueError: They are no records.
    """
    evaluation = json.loads((folder / "evaluation.json").read_text("utf-8"))
    story = json.loads((folder / "search.json").read_text("utf-8"))
    tried = {one["recipe"]: one for one in story["tried"]}
    half = tried.get(HALF)
    return Record(
        recipe=evaluation["recipe"] or "",
        decision=evaluation["decision"],
        reason=evaluation["reason"],
        session=evaluation["session"],
        seconds=float(story["seconds"]),
        told=_told(evaluation),
        floor=_floor(tried.get(FLOOR)),
        half=None if half is None else half["failure"] is None,
        lost_db=_lost(evaluation["golden_measured"]),
    )


def _told(evaluation: dict[str, Any]) -> tuple[float, float, float] | None:
    if evaluation["variant"] is None:
        return None
    found = (
        evaluation["variant"]["score"],
        evaluation["drop_points"],
        evaluation["latency_ratio"],
    )
    score, drop, ratio = (float("nan") if one is None else float(one) for one in found)
    return score, drop, ratio


def _floor(tried: dict[str, Any] | None) -> tuple[float, float] | None:
    if tried is None or tried["latency_ratio"] is None:
        return None
    return float(tried["latency_ratio"]), float(tried["size_ratio"])


def _lost(measured: list[dict[str, Any]]) -> tuple[tuple[str, float], ...]:
    here = next((one["sqnr_db"] for one in measured if one["processor"] == HERE), 0.0)
    return tuple(
        (one["processor"], here - one["sqnr_db"])
        for one in measured
        if one["processor"] != HERE
    )
