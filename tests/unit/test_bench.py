"""The benchmarks can be listed, and the quickest of them run and are told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.table import Figure, Section, render, to_json

ROOT = Path(__file__).parents[2]
FIGURE = Figure("speed", 1200, 5.0, "ms", "a peer", 2.0, "in turns")


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_lists_every_benchmark() -> None:
    done = bench("--list")

    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == [
        "quantization",
        "fidelity",
        "transfer",
        "trust",
        "resign",
        "enrolment",
        "rollout",
        "ingest",
        "inference",
        "agent",
        "bus",
    ]


def test_chosen_benchmarks_run_and_are_told_as_json() -> None:
    done = bench("rollout", "ingest", "--quick", "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [it["name"] for it in told["benchmarks"]] == ["rollout", "ingest"]
    assert all(
        figure["ratio"] > 0 for it in told["benchmarks"] for figure in it["figures"]
    )
    assert "onnxruntime" in told["machine"]["versions"]


def test_a_benchmark_that_is_not_known_is_refused() -> None:
    done = bench("nonsense")

    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "rollout" in done.stderr


def test_a_row_holds_both_values_and_their_ratio() -> None:
    text = render([Section("one", "about it", 1.0, (FIGURE,))], {"machine": "mine"})

    assert "speed  1,200  5.00 ms  a peer     2.00 ms   2.50  in turns" in text
    assert text.endswith("machine: mine")


@pytest.mark.parametrize("other", [None, 0.0])
def test_where_there_is_nothing_to_divide_by_there_is_no_ratio(
    other: float | None,
) -> None:
    figure = Figure("lost", 10, 0.0, "lost", "none", other)

    told = json.loads(to_json([Section("one", "", 1.0, (figure,))], {}))

    assert told["benchmarks"][0]["figures"][0]["ratio"] is None


def test_a_failed_benchmark_says_why_in_the_table() -> None:
    text = render([Section("one", "about it", 1.0, (), "OSError: no disk")], {})

    assert "failed: OSError: no disk" in text
