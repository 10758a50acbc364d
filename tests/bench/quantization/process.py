"""Child processes with a time limit, whose failure is told in a sentence."""

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.quantization.venvs import ROOT

ENOUGH_S = 1200


class FailedError(RuntimeError):
    """A child failed; the message says how."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds on the wall, and of processors by the child and its own children."""

    wall: float
    cpu: float


def step(name: str, **request: object) -> dict[str, Any]:
    """Return what ``child.NAME`` answers.

    Raises:
        FailedError: It failed, crashed, or ran out of time or memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request, default=str), "utf-8")
        module = "tests.bench.quantization.child"
        run([sys.executable, "-m", module, name, str(asked), str(answer)], ENOUGH_S)
        found = json.loads(answer.read_text("utf-8"))
        assert isinstance(found, dict)
        return found


def run(
    command: Sequence[str],
    seconds: float,
    *,
    fine: Sequence[int] = (0,),
    memory_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Spent:
    """Run a command to its end and return what that took.

    Args:
        command: Program and arguments.
        seconds: At most.
        fine: Exit codes that are no failure.
        memory_bytes: Limit of its address space.
        environment: Its variables; None is our own.

    Raises:
        FailedError: Another exit code, a signal, or no end in time.
    """
    began, before = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        if memory_bytes is not None:
            limit = (memory_bytes, memory_bytes)
            resource.prlimit(process.pid, resource.RLIMIT_AS, limit)
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise FailedError(f"did not end in {seconds:g} s") from error
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise FailedError(f"killed by {name}")
    if process.returncode not in fine:
        raise FailedError(_last_line(said) or f"exit code {process.returncode}")
    return Spent(time.perf_counter() - began, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_line(text: str) -> str:
    """Return the last line that says something, without the runtime's own prefix."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "Error" in line), "")
    return (said or (lines[-1] if lines else ""))[:200]
