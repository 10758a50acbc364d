"""The demo's processes: one controller with its broker, and the agents."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

STOP_TIMEOUT_S = 10


class Processes:
    """Starts programs, each with a log of its own, and ends all it has started."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_all()

    def start(self, name: str, program: str, arguments: Sequence[str]) -> None:
        """Start ``program``, which was installed beside this Python, as ``name``."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(_installed(program)), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(),
            )

    def kill(self, name: str) -> None:
        """End ``name`` as a power cut would: SIGKILL, with nothing written."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)

    def stop_all(self) -> dict[str, int]:
        """Ask all to stop, newest first, and return how each ended.

        One that does not within ten seconds is killed, which shows as -9.
        """
        codes = {}
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        for name, process in reversed(self._running.items()):
            try:
                codes[name] = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        self._running.clear()
        return codes


def _installed(program: str) -> Path:
    path = Path(sys.executable).with_name(program)
    if not path.is_file():
        raise RejectedError(
            Code.NOT_FOUND,
            f"{path} is missing: install the agent beside the controller",
        )
    return path


def _environment() -> dict[str, str]:
    """Return our environment with one thread a process: the demo runs many."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
