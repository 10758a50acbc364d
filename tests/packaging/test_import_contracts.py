"""The architecture's contracts hold, and each one really fails when it is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "quarterdeck_agent": "agent",
    "quarterdeck_controller": "controller",
    "quarterdeck_shared": "shared",
}

BREACHES = {
    "controller and agent never meet; both stand on shared": (
        "quarterdeck_agent/cli.py",
        "import quarterdeck_controller.home",
    ),
    "controller: doors, wiring, rooms, ground": (
        "quarterdeck_controller/store/database.py",
        "import quarterdeck_controller.rollout.plan",
    ),
    "agent: doors, wiring, rooms, ground": (
        "quarterdeck_agent/update/decide.py",
        "import quarterdeck_agent.runtime.server",
    ),
    "deciding is pure": (
        "quarterdeck_controller/rollout/plan.py",
        "import time",
    ),
    "the agent stays light": (
        "quarterdeck_agent/service.py",
        "def lazy() -> None:\n    import onnx",
    ),
    "only the worker loads numpy and the runtime": (
        "quarterdeck_agent/update/machine.py",
        "import numpy",
    ),
    "paho has one room": (
        "quarterdeck_agent/link.py",
        "import paho.mqtt.client",
    ),
    "the database has one room": (
        "quarterdeck_controller/rollout/execute.py",
        "import sqlalchemy",
    ),
    "the runtime has one room at each end": (
        "quarterdeck_controller/release/assemble.py",
        "import onnxruntime",
    ),
    "the search never touches a model itself": (
        "quarterdeck_controller/optimize/search/ready.py",
        "def lazy() -> None:\n    import onnx",
    ),
    "PyTorch has one room, and the demo's training": (
        "quarterdeck_controller/optimize/quantize/build.py",
        "def lazy() -> None:\n    import torch",
    ),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The three packages and the contracts, free to be broken."""
    for package, member in PACKAGES.items():
        shutil.copytree(
            ROOT / member / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__", "*.onnx"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> str:
    program = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_all_contracts_are_kept(copy: Path) -> None:
    assert " 0 broken" in lint(copy)


@pytest.mark.parametrize("contract", BREACHES)
def test_a_breach_is_caught(copy: Path, contract: str) -> None:
    name, line = BREACHES[contract]
    with (copy / name).open("a") as file:
        file.write(f"\n\n{line}\n")

    assert f"{contract} BROKEN" in lint(copy)
