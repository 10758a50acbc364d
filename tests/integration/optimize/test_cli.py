import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from quarterdeck_controller.optimize.data.samples import Samples
from tests.support.small_model import (
    lenient_profile,
    make_model,
    make_samples,
    save_npz,
)

QUARTERDECK = [
    sys.executable,
    "-c",
    "from quarterdeck_controller.cli import main; main()",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    make_model(folder / "waves.onnx")
    unlabelled = Samples(make_samples(1, 64).inputs)
    save_npz(folder / "calibration.npz", unlabelled)
    save_npz(folder / "evaluation.npz", make_samples(2, 400))
    lenient_profile("board-arm64", folder)
    lenient_profile("gateway-x86", folder)
    return folder


@pytest.fixture(autouse=True)
def cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results are kept in a folder of this module's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return folder / "cache" / "quarterdeck" / "optimize"


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUARTERDECK, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def command(*words: object) -> list[str]:
    fixed = ("model", "optimize", "waves.onnx", "--name", "waves")
    data = ("--calibration", "calibration.npz", "--evaluation", "evaluation.npz")
    return list(map(str, (*fixed, *data, *words)))


def optimize(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run(*command(*words), cwd=folder)


def entries(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_accepted_classes_exit_0_and_leave_four_files_each(
    folder: Path, tmp_path: Path
) -> None:
    done = optimize(
        folder,
        *("--class", "board-arm64.toml", "--class", "gateway-x86.toml"),
        *("--recipe", "static", "--out", tmp_path, "--labels", "a,b,c,d", "--json"),
    )

    assert done.returncode == 0, done.stderr
    records: list[dict[str, Any]] = json.loads(done.stdout)
    assert [one["device_class"] for one in records] == ["board-arm64", "gateway-x86"]
    assert all(one["decision"] == "accepted" for one in records)
    assert records[0]["labels"] == ["a", "b", "c", "d"]
    assert records[0]["float"]["score"] > 0.9
    for one in records:
        files = {path.name for path in (tmp_path / one["device_class"]).iterdir()}
        assert files >= {"model.onnx", "golden.npz", "evaluation.json", "search.json"}


def test_a_second_run_takes_what_the_first_has_found_and_gives_the_same_files(
    folder: Path, tmp_path: Path, cached: Path
) -> None:
    words = ("--class", "board-arm64.toml", "--recipe", "weights")
    first = optimize(folder, *words, "--out", tmp_path / "first")
    made = entries(cached)

    again = optimize(folder, *words, "--out", tmp_path / "again")
    after = entries(cached)
    fresh = optimize(folder, *words, "--out", tmp_path / "fresh", "--fresh")

    assert (first.returncode, again.returncode, fresh.returncode) == (0, 0, 0)
    assert made == after == entries(cached)
    for name in ("model.onnx", "golden.npz"):
        files = {
            (tmp_path / run / "board-arm64" / name).read_bytes()
            for run in ("first", "again", "fresh")
        }
        assert len(files) == 1


def test_two_runs_at_once_share_what_they_find(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("--class", "board-arm64.toml", "--recipe", "static")
    both = [
        subprocess.Popen(
            [*QUARTERDECK, *command(*words, "--out", tmp_path / name)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for name in ("one", "other")
    ]

    told = [process.communicate(timeout=120)[1] for process in both]

    assert [process.returncode for process in both] == [0, 0], told
    left = entries(tmp_path / "cache" / "quarterdeck" / "optimize")
    assert not [name for name in left if name.startswith(".")]
    one, other = (
        (tmp_path / name / "board-arm64" / "golden.npz").read_bytes()
        for name in ("one", "other")
    )
    assert one == other


def test_a_time_budget_ends_the_search_with_what_there_is(
    folder: Path, tmp_path: Path
) -> None:
    done = optimize(
        folder,
        *("--class", "board-arm64.toml", "--out", tmp_path),
        *("--time-budget", "0s", "--json"),
    )

    assert done.returncode in (0, 3), done.stderr
    story = json.loads((tmp_path / "board-arm64" / "search.json").read_bytes())
    assert any("time" in said["sentence"] for said in story["said"]), story["said"]


def test_a_refused_class_exits_3_and_says_by_how_much(
    folder: Path, tmp_path: Path
) -> None:
    small = (folder / "board-arm64.toml").read_text("utf-8")
    small = re.sub(r"(?m)^size_ratio = .*$", "size_ratio = 0.01", small)
    (folder / "small.toml").write_text(small, "utf-8")

    done = optimize(
        folder, "--class", "small.toml", "--recipe", "weights", "--out", tmp_path
    )

    assert done.returncode == 3, done.stderr
    assert "refused" in done.stdout
    assert "at most 0.01 of float allowed" in " ".join(done.stdout.split())
    left = {path.name for path in (tmp_path / "board-arm64").iterdir()}
    assert left >= {"evaluation.json", "search.json"}
    assert not left & {"model.onnx", "golden.npz"}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--class", "toaster"), "profile_invalid", "no device class 'toaster'"),
        (("--recipe", "magic"), "not_allowed", "there is no recipe 'magic'"),
        (("--labels", "a,b"), "data_invalid", "2 labels are named, the model has 4"),
        (("--calibration", "none.npz"), "data_invalid", "none.npz could not be read"),
        (("--evaluation", "waves.onnx"), "data_invalid", "waves.onnx is no .npz file"),
    ],
)
def test_bad_input_exits_1_with_what_why_and_what_to_do(
    folder: Path, tmp_path: Path, words: tuple[str, ...], code: str, told: str
) -> None:
    done = optimize(folder, "--out", tmp_path / "out", *words)

    assert done.returncode == 1
    assert f"error {code}" in done.stderr
    assert told in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_model_exits_1(folder: Path) -> None:
    (folder / "text.onnx").write_text("hello", "utf-8")

    done = run("model", "inspect", "text.onnx", cwd=folder)

    assert done.returncode == 1
    assert "error model_invalid" in done.stderr


def test_inspect_tells_what_a_model_is(folder: Path) -> None:
    done = run("model", "inspect", "waves.onnx", "--json", cwd=folder)

    source = json.loads(done.stdout)
    assert source["operators"]["Conv"] == 2
    assert source["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": [None, 3, 64]}
    ]


def test_evaluate_tells_how_a_model_does(folder: Path) -> None:
    words = ("--evaluation", "evaluation.npz", "--json")

    done = run("model", "evaluate", "waves.onnx", *words, cwd=folder)

    scored = json.loads(done.stdout)
    assert scored["samples"] == 400
    assert scored["ci95"][0] < scored["score"] < scored["ci95"][1]


def test_classes_are_listed_and_shown(folder: Path) -> None:
    listed = json.loads(run("class", "list", "--json", cwd=folder).stdout)
    shown = run("class", "show", "board-arm64", cwd=folder)

    assert {one["name"] for one in listed} >= {"board-arm64", "gateway-x86"}
    assert "budget.latency_ms" in shown.stdout


@pytest.mark.parametrize(
    ("signalled", "code"),
    [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 128 + signal.SIGINT)],
)
def test_a_stopped_run_leaves_no_child_and_no_temporary_file(
    folder: Path, tmp_path: Path, signalled: signal.Signals, code: int
) -> None:
    scratch, cache = tmp_path / "scratch", tmp_path / "cache"
    scratch.mkdir()
    process = subprocess.Popen(
        [*QUARTERDECK, *command("--out", tmp_path / "out")],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(scratch), "XDG_CACHE_HOME": str(cache)},
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: any(scratch.glob("*/steps/*-build")))

    process.send_signal(signalled)
    process.communicate(timeout=60)

    assert process.returncode == code
    assert not any(scratch.iterdir())
    assert not (tmp_path / "out").exists()
    left = entries(cache / "quarterdeck" / "optimize")
    assert not [name for name in left if name.startswith(".")]
    assert not children_in(scratch)


def children_in(scratch: Path) -> list[str]:
    """Return the command lines of processes that work in ``scratch``."""
    told = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            told.append(file.read_bytes().decode("utf-8", "replace"))
    return [line for line in told if str(scratch) in line]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
