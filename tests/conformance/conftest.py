"""The world that every attack begins in."""

from pathlib import Path

import pytest

from tests.support.attacks import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
