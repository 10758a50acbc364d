"""Every line of the threat model names tests, and every test it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "THREATS.md"
_NAME = re.compile(r"`(test_[a-z0-9_]+)`")


def rows() -> list[tuple[str, str]]:
    """Return who holds what, and the tests that show it."""
    lines = PAGE.read_text("utf-8").splitlines()
    cells = [line.split("|") for line in lines if line.startswith("| ")]
    return [(row[1].strip(), row[3]) for row in cells if len(row) == 5][1:]


def known_tests() -> frozenset[str]:
    """Return the names of every test function."""
    trees = (ast.parse(it.read_bytes()) for it in (ROOT / "tests").rglob("test_*.py"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    )


def test_the_page_has_its_lines() -> None:
    assert len(rows()) >= 12


@pytest.mark.parametrize(("holder", "shown"), rows(), ids=lambda it: it[:40])
def test_each_line_is_shown_by_tests_that_exist(holder: str, shown: str) -> None:
    named = _NAME.findall(shown)

    assert named, f"no test shows what {holder} gets"
    assert set(named) <= known_tests()
