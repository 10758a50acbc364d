"""Emulated processors for tests, or the reason why there are none."""

import pytest

from quarterdeck_controller.optimize.measure.emulate import Emulator, find_emulator


def emulator(processor: str) -> Emulator:
    """Return how to run on ``processor``; skip the test where that is not possible."""
    found = find_emulator(processor)
    if isinstance(found, str):
        pytest.skip(found)
    return found
