"""Measure Quarterdeck beside its peers and physical limits: ``python -m tests.bench``.

Every figure stands beside a comparator from the same run. Nothing is judged here.
"""

import argparse
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from tests.bench import (
    agent,
    bus,
    enrolment,
    fidelity,
    inference,
    ingest,
    resign,
    rollout,
    transfer,
    trust,
)
from tests.bench.quantization import summary
from tests.bench.table import Figure, Section, machine, render, to_json


class Measure(Protocol):
    """A benchmark: works in an empty folder; ``quick`` shows only that it works."""

    def __call__(self, folder: Path, *, quick: bool) -> Sequence[Figure]:
        """Return what was found."""
        ...


BENCHMARKS: MappingProxyType[str, Measure] = MappingProxyType(
    {
        "quantization": summary.measure,
        "fidelity": fidelity.measure,
        "transfer": transfer.measure,
        "trust": trust.measure,
        "resign": resign.measure,
        "enrolment": enrolment.measure,
        "rollout": rollout.measure,
        "ingest": ingest.measure,
        "inference": inference.measure,
        "agent": agent.measure,
        "bus": bus.measure,
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print it; 1 when a benchmark failed."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - BENCHMARKS.keys())
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(BENCHMARKS)}")
    if given.list:
        _say("\n".join(f"{name:12} {_about(name)}" for name in BENCHMARKS))
        return 0
    logging.basicConfig(level=logging.ERROR)
    # told to end, too, it ends the processes that it started
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sections = [_section(name, quick=given.quick) for name in given.names or BENCHMARKS]
    show: Callable[..., str] = to_json if given.json else render
    _say(show(sections, machine(Path(tempfile.gettempdir()))))
    return int(any(section.failure for section in sections))


def _section(name: str, *, quick: bool) -> Section:
    _note(f"{name} ... ")
    began, failure = time.perf_counter(), ""
    figures: tuple[Figure, ...] = ()
    with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
        try:
            figures = tuple(BENCHMARKS[name](Path(folder), quick=quick))
        except Exception as error:  # the others are still worth measuring
            logging.getLogger(__name__).exception("%s failed", name)
            failure = f"{type(error).__name__}: {error}"
    spent = time.perf_counter() - began
    _note(f"{spent:.1f} s\n")
    return Section(name, _about(name), spent, figures, failure)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _note(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _about(name: str) -> str:
    text = sys.modules[BENCHMARKS[name].__module__].__doc__ or ""
    return text.partition("\n")[0].rstrip(".")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: that it works, not how fast"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
