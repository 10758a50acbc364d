"""Measure the optimizer beside other quantizers: ``... tests.bench.quantization``.

Real models with labelled data; the same calibration data, evaluation, runtime and
thread for everyone. What the optimizer ships is run and judged here again, apart from
its own figures.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from quarterdeck_controller.optimize.profile import load_profile
from tests.bench.quantization import inject
from tests.bench.quantization.compare import CLASSES, our_rows, peer_rows
from tests.bench.quantization.fetch import UnavailableError
from tests.bench.quantization.peers.registry import PEERS
from tests.bench.quantization.row import Row, float_row
from tests.bench.quantization.table import render
from tests.bench.quantization.targets import Budget, verdicts
from tests.bench.quantization.task import prepared
from tests.bench.quantization.tasks.registry import RECIPES

QUICK = "watch-conv"
QUICK_CLASSES, QUICK_PEERS = CLASSES[:1], ("ort static", "ort dynamic")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a target was missed."""
    given = _parse(arguments)
    rows = list(_rows(given))
    found = verdicts(rows, {name: _budget(name) for name in given.classes})
    if given.inject:
        _note("bad variants, put in on purpose ...")
        limits = _budget(inject.CLASS)
        judgements = list(inject.bad_ships(rows, given.models[0], limits))
        found.append(inject.verdict(judgements))
    if given.json:
        document = {
            "v": 1,
            "rows": [asdict(row) for row in rows],
            "targets": [asdict(one) for one in found],
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        sys.stdout.write(render(rows, found) + "\n")
    return int(any(one.met is False for one in found))


def _rows(given: argparse.Namespace) -> Iterator[Row]:
    for name in given.models:
        _note(f"{name}: data, float ...")
        try:
            task = prepared(RECIPES[name])
        except UnavailableError as error:
            yield Row(name, "float", failure=str(error))
            continue
        yield float_row(task)
        if not given.no_ours:
            _note(f"{name}: the optimizer ...")
            yield from our_rows(task, given.classes, given.word)
        for peer in given.peers:
            _note(f"{name}: {peer} ...")
            yield from peer_rows(task, [peer], again=given.again)


def _budget(name: str) -> Budget:
    budget = load_profile(name).budget
    return Budget(
        drop=budget.accuracy_drop_points,
        latency=budget.latency_ratio,
        size=budget.size_ratio,
    )


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.quantization", description=__doc__
    )
    models, peers = ",".join(RECIPES), ",".join(PEERS)
    parser.add_argument("--models", help=f"of {models}")
    parser.add_argument("--classes", help="device classes to optimize for")
    parser.add_argument("--peers", help=f"of {peers}, or none")
    parser.add_argument(
        "--inject",
        action="store_true",
        help="put bad variants through the gate: the first model spoilt, peers'",
    )
    parser.add_argument("--again", action="store_true", help="run the peers anew")
    parser.add_argument(
        "--no-ours", action="store_true", help="leave the optimizer out"
    )
    parser.add_argument(
        "--word",
        action="append",
        default=[],
        help="one more argument of `quarterdeck model optimize`, such as --qat",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.add_argument(
        "--quick", action="store_true", help="one small model: that it works"
    )
    given = parser.parse_args(arguments)
    quick = given.quick
    given.models = _chosen(given.models, [QUICK] if quick else list(RECIPES))
    given.classes = _chosen(given.classes, list(QUICK_CLASSES if quick else CLASSES))
    given.peers = _chosen(given.peers, list(QUICK_PEERS if quick else PEERS))
    given.peers = [one for one in given.peers if one != "none"]
    for what, known in ((given.models, RECIPES), (given.peers, PEERS)):
        unknown = sorted(set(what) - known.keys())
        if unknown:
            parser.error(f"{', '.join(unknown)}: there are {', '.join(known)}")
    return given


def _chosen(text: str | None, otherwise: list[str]) -> list[str]:
    return otherwise if text is None else [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
