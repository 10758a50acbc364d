import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_model import (
    lenient_profile,
    make_data,
    make_model,
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
    data = make_data()
    make_model(folder / "waves.onnx")
    save_npz(folder / "calibration.npz", data.calibration)
    save_npz(folder / "evaluation.npz", data.evaluation)
    lenient_profile("board-arm64", folder)
    lenient_profile("gateway-x86", folder)
    return folder


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUARTERDECK, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def optimize(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run(
        *("model", "optimize", "waves.onnx", "--name", "waves"),
        *("--calibration", "calibration.npz", "--evaluation", "evaluation.npz"),
        *words,
        cwd=folder,
    )


def test_accepted_classes_exit_0_and_leave_three_files_each(
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
        assert files == {"model.onnx", "golden.npz", "evaluation.json"}


def test_a_refused_class_exits_3_and_says_by_how_much(
    folder: Path, tmp_path: Path
) -> None:
    done = optimize(
        folder,
        *("--class", "board-arm64.toml", "--recipe", "dynamic", "--out", tmp_path),
    )

    assert done.returncode == 3, done.stderr
    assert "refused" in done.stdout
    assert "at most 0.6 of float allowed" in done.stdout.replace("\n", " ")
    assert [p.name for p in (tmp_path / "board-arm64").iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--class", "toaster"), "profile_invalid", "no device class 'toaster'"),
        (("--recipe", "magic"), "profile_invalid", "no recipe 'magic'"),
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


def test_sigterm_leaves_no_child_and_no_temporary_file(
    folder: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ["model", "optimize", "waves.onnx", "--name", "waves"]
    words += ["--calibration", "calibration.npz", "--evaluation", "evaluation.npz"]
    process = subprocess.Popen(
        [*QUARTERDECK, *words, "--out", str(tmp_path / "out")],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: any(scratch.glob("*/steps/*-build")))

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)

    assert process.returncode == 128 + signal.SIGTERM
    assert not any(scratch.iterdir())
    assert not (tmp_path / "out").exists()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
