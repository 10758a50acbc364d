"""One release: every member carries the workspace's version."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def project(folder: str) -> dict[str, Any]:
    table = tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))
    return dict(table["project"])


@pytest.mark.parametrize("member", ["agent", "controller", "shared"])
def test_a_member_has_the_workspaces_version(member: str) -> None:
    assert project(member)["version"] == project(".")["version"]


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "deploy/constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    for member in ("agent", "controller", "shared"):
        for line in project(member)["dependencies"]:
            name = line.partition(">")[0].partition("=")[0].partition("[")[0]
            assert name.startswith("quarterdeck") or name in pinned, name
