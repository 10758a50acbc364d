"""The demo is the whole chain in real processes; a script can read what it saw."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = (
    "optimize",
    "roll-out",
    "better",
    "broken",
    "worse",
    "stolen",
    "tampered",
    "killed",
    "stop",
)


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("quarterdeck")
    return subprocess.run(
        [str(program), "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.timeout(420)
def test_everything_that_the_demo_shows_happens(tmp_path: Path) -> None:
    done = demo("--json", "--dir", str(tmp_path / "demo"))

    summary = json.loads(done.stdout)
    failed = {step["name"]: step["seen"] for step in summary["steps"] if not step["ok"]}
    assert failed == {}
    assert tuple(step["name"] for step in summary["steps"]) == STEPS
    assert summary["ok"]
    assert done.returncode == 0
    for picture in ("rollouts.png", "accuracy.png"):
        assert (tmp_path / "demo" / "pictures" / picture).stat().st_size > 10_000


def test_the_demo_never_empties_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("mine")

    done = demo("--dir", str(tmp_path))

    assert done.returncode == 1
    assert "no demo made it" in done.stderr
    assert precious.read_text() == "mine"
