"""The targets, and whether what was measured meets them. Pure.

A variant counts for a target only when the optimizer accepted it, and by the
benchmark's own figures, not the optimizer's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.quantization.row import Row

OURS = "ours "
BEST = "ours gateway-x86-vnni"
"""The class that this machine can be one of; targets of time are its."""
NOISE = 1.05
"""Two runs of one model in turns differ by so much on a shared machine."""
LARGE = 3_000_000
"""Bytes of float above which weights, not the graph's text, decide a file's size."""


FLOOR_TIME, FLOOR_SIZE, FIDELITY_DB = 0.05, 0.28, 2.0
WORDS = {
    "drop": "drop <= {:.1f} points",
    "size": "size <= {:.2f}",
    "latency": "latency <= {:.2f}",
    "agreement": "agreement >= {:.2f}",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What a class allows; see the profile's budget."""

    drop: float
    latency: float
    size: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was found.

    Attributes:
        met: None where nothing was measured that could tell.
    """

    target: str
    measured: str
    met: bool | None


def verdicts(rows: Sequence[Row], budgets: Mapping[str, Budget]) -> list[Verdict]:
    """Return every target with what the rows say of it."""
    ours = [row for row in rows if row.by.startswith(OURS)]
    floats = {row.task: row for row in rows if row.by == "float"}
    if not ours:
        return []
    return [
        _answered(ours),
        _bad_ships(ours, budgets),
        _numbers(ours, "rec", drop=1.0, size=0.30, latency=0.80),
        _numbers(ours, "minilm", agreement=0.96, size=0.26, latency=0.50),
        _numbers(ours, "magika", agreement=0.99),
        *(
            _numbers(ours, name, drop=0.5)
            for name in dict.fromkeys(row.task for row in ours)
            if name not in ("rec", "minilm", "magika")
        ),
        _sizes(ours, floats),
        _floors(ours, floats),
        _halves(ours),
        _faithful(ours),
        _seconds(ours, floats, most=1_000_000, limit=60),
        _seconds(ours, floats, most=12_000_000, limit=180),
    ]


def violations(row: Row, budget: Budget) -> list[str]:
    """Return in what an accepted variant is not what its class allows."""
    if row.decision != "accepted":
        return []
    if row.failure or not row.samples:
        return [f"{row.task} {row.by}: accepted, but it fails: {row.failure}"]
    where = f"{row.task} {row.by}"
    found = []
    if row.drop > budget.drop + 1e-9:
        found.append(f"{where}: {row.drop:.2f} points, {budget.drop:g} allowed")
    if row.latency_ratio > budget.latency * NOISE:
        found.append(f"{where}: {row.latency_ratio:.2f} of float's time")
    if row.size_ratio > budget.size:
        found.append(f"{where}: {row.size_ratio:.2f} of float's size")
    return found


def _bad_ships(ours: Iterable[Row], budgets: Mapping[str, Budget]) -> Verdict:
    bad: list[str] = []
    count = 0
    for row in ours:
        count += row.decision == "accepted"
        bad += violations(row, budgets[row.by.removeprefix(OURS)])
    shown = f"{len(bad)} in {count} accepted variants"
    return Verdict(
        "no variant over budget or slower than float",
        "; ".join([shown, *bad]),
        not bad,
    )


def _answered(ours: Sequence[Row]) -> Verdict:
    """Return whether every model and class got a variant or a refusal."""
    without = [row for row in ours if not row.decision]
    shown = f"{len(ours) - len(without)} of {len(ours)}"
    told = [f"{row.task} {row.by}: {row.failure}" for row in without]
    target = "every model and class gets a variant or a refusal with its reason"
    return Verdict(target, "; ".join([shown, *told]), not without)


def _numbers(ours: Iterable[Row], task: str, **limits: float) -> Verdict:
    """Return whether the class that can be measured here meets all of ``limits``."""
    told = ", ".join(WORDS[name].format(limit) for name, limit in limits.items())
    target = f"{task}: {told}"
    row = next((row for row in ours if (row.task, row.by) == (task, BEST)), None)
    if row is None:
        return Verdict(target, "-", None)
    if row.decision != "accepted" or row.failure:
        return Verdict(target, f"{row.decision} {row.failure}".strip(), met=False)
    seen = {
        "drop": row.drop,
        "size": row.size_ratio,
        "latency": row.latency_ratio,
        "agreement": row.agreement,
    }
    shown = ", ".join(f"{name} {seen[name]:.3f}" for name in limits)
    met = all(
        seen[name] >= limit if name == "agreement" else seen[name] <= limit
        for name, limit in limits.items()
    )
    return Verdict(target, f"{shown} ({row.recipe})", met)


def _sizes(ours: Iterable[Row], floats: Mapping[str, Row]) -> Verdict:
    large = [
        row
        for row in ours
        if row.by == BEST
        and row.decision == "accepted"
        and floats[row.task].bytes >= LARGE
    ]
    worst = max(large, key=lambda row: row.size_ratio, default=None)
    return _worst(
        "size <= 0.26 from 3 MB up", worst, lambda row: row.size_ratio, limit=0.26
    )


def _floors(ours: Iterable[Row], floats: Mapping[str, Row]) -> Verdict:
    """Return whether weights alone in int8 cost no time, and save three quarters."""
    found = [(row, row.floor) for row in ours if row.by == BEST and row.floor]
    bad = [
        f"{row.task}: {floor[0]:.2f} of float's time, {floor[1]:.3f} of its size"
        for row, floor in found
        if abs(floor[0] - 1) > FLOOR_TIME
        or (floor[1] > FLOOR_SIZE and floats[row.task].bytes >= LARGE)
    ]
    told = "; ".join([f"{len(found) - len(bad)} of {len(found)}", *bad])
    target = "weights only: 1.00 +- 0.05 of float's time, <= 0.28 of 3 MB and more"
    return Verdict(target, told, not bad if found else None)


def _halves(ours: Iterable[Row]) -> Verdict:
    tried = [row for row in ours if row.by == BEST and row.half is not None]
    bad = [row.task for row in tried if not row.half]
    told = "; ".join([f"{len(tried) - len(bad)} of {len(tried)}", *bad])
    return Verdict("fp16 loads on every model", told, not bad if tried else None)


def _faithful(ours: Iterable[Row]) -> Verdict:
    found = [
        (lost, f"{row.task} on {processor}: {lost:.1f} dB")
        for row in ours
        if row.decision == "accepted"
        for processor, lost in row.lost_db
    ]
    target = "answers on emulated processors within 2 dB of those here"
    if not found:
        return Verdict(target, "no emulator", None)
    lost, told = max(found)
    return Verdict(target, f"{len(found)} variants, {told}", lost <= FIDELITY_DB)


def _seconds(
    ours: Iterable[Row], floats: Mapping[str, Row], *, most: int, limit: float
) -> Verdict:
    small = [row for row in ours if row.by == BEST and floats[row.task].bytes <= most]
    worst = max(small, key=lambda row: row.seconds, default=None)
    target = f"at most {limit:g} s to a variant up to {most / 1e6:g} MB"
    return _worst(target, worst, lambda row: row.seconds, limit=limit)


def _worst(
    target: str, row: Row | None, value: Callable[[Row], float], *, limit: float
) -> Verdict:
    if row is None:
        return Verdict(target, "-", None)
    seen = value(row)
    return Verdict(target, f"{row.task}: {seen:.3g}", seen <= limit)
