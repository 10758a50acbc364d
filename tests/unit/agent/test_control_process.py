"""What the control process loads, and must not."""

import subprocess
import sys

import pytest

HEAVY = ("numpy", "onnxruntime", "tuf", "securesystemslib")


@pytest.mark.parametrize(
    "module", ["quarterdeck_agent.service", "quarterdeck_agent.cli"]
)
def test_the_control_process_starts_without_what_only_workers_and_trust_need(
    module: str,
) -> None:
    probe = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_trust_brings_neither_numpy_nor_the_runtime() -> None:
    probe = (
        "import sys, quarterdeck_agent.update.judge;"
        "print([m for m in ('numpy', 'onnxruntime') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
