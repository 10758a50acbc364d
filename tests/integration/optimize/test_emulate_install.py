"""The installer of the emulator, as far as it goes without a network."""

import os
import subprocess
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[3] / "deploy/emulation/install"
NOT_TO_BE_HAD = 75


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "emulation"


def install(target: Path, *words: str, path: str = "") -> tuple[int, str]:
    """Return the exit code and what was said on stderr."""
    changed = {
        "QUARTERDECK_EMULATION": str(target),
        "PATH": f"{path}:{os.environ['PATH']}",
    }
    ended = subprocess.run(
        [str(INSTALL), *words],
        env=os.environ | changed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_an_unknown_option_is_answered_with_the_usage(target: Path) -> None:
    code, told = install(target, "--everything")

    assert code == 2
    assert "Usage: install [--check]" in told


def test_asked_whether_it_is_there_it_changes_nothing(target: Path) -> None:
    code, told = install(target, "--check")

    assert code == NOT_TO_BE_HAD
    assert "Run:" in told
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("words", [(), ("--check",)])
def test_a_folder_that_holds_something_else_is_left_alone(
    target: Path, words: tuple[str, ...]
) -> None:
    target.mkdir()
    (target / "thesis.txt").touch()

    code, told = install(target, *words)

    assert code == 1
    assert "holds something else" in told
    assert (target / "thesis.txt").exists()


def test_without_a_network_it_says_so_in_a_sentence_and_leaves_nothing(
    target: Path, tmp_path: Path
) -> None:
    unreachable = tmp_path / "bin" / "apt-get"
    unreachable.parent.mkdir()
    unreachable.write_text("#!/bin/sh\necho 'E: Could not resolve' >&2\nexit 100\n")
    unreachable.chmod(0o755)

    code, told = install(target, path=str(unreachable.parent))

    assert code == NOT_TO_BE_HAD, told
    assert told.startswith("no emulation: ")
    assert not target.exists()
    assert not list(tmp_path.glob("emulation.new-*"))
