"""Run one step in a child process, with limits on time and memory.

Whatever the model does to the runtime, this process goes on: a child that crashes,
hangs or outgrows its memory becomes a refusal that says so.
"""

import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from signal import Signals
from typing import TypeVar

from quarterdeck_controller.optimize.steps import Record, StepName
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError

MAX_TOLD = 300

A = TypeVar("A", bound=Record)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one step may use.

    Attributes:
        seconds: Wall-clock time.
        memory_mb: Address space, MiB.
    """

    seconds: float = 300
    memory_mb: int = 8192


@dataclass(slots=True)
class Sandbox:
    """Runs steps, each in its own child and its own folder under ``folder``."""

    folder: Path
    bounds: Bounds = Bounds()
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0
    _closed: bool = False

    def run(
        self,
        step: StepName,
        request: Record,
        answer: type[A],
        *,
        seconds: float | None = None,
    ) -> A:
        """Return what ``step`` answers. Blocks; may be called from several threads.

        Args:
            step: What to do.
            request: What it is asked.
            answer: What it answers.
            seconds: Its time, where the bounds' own does not fit.

        Raises:
            RejectedError: What the step refused, ``MODEL_INVALID`` when the child
                failed, crashed, hung or outgrew its limits, or ``DISK_FULL`` or
                ``DISK_FAILED`` when what it needs could not be written.
        """
        limit = seconds or self.bounds.seconds
        try:
            folder = self._make_folder(step)
            (folder / "request.json").write_text(request.model_dump_json(), "utf-8")
            with (folder / "stderr").open("wb") as stderr:
                code = self._wait(step, folder, stderr.fileno(), limit)
        except OSError as error:
            told = f"{self.folder} could not be written: {error.strerror}"
            raise RejectedError(disk_code(error), told) from error
        if code != 0:
            how = _how_it_ended(code, _read_tail(folder / "stderr"))
            if f"[Errno {ENOSPC}]" in how:
                raise RejectedError(Code.DISK_FULL, f"no room to {step}: {how}")
            raise _failed(step, how)
        return _read_answer(folder, answer)

    def close(self) -> None:
        """End every child that still runs, and start no more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _make_folder(self, step: StepName) -> Path:
        with self._lock:
            self._count += 1
            folder = self.folder / f"{self._count:03d}-{step}"
        folder.mkdir(parents=True)
        return folder

    def _wait(self, step: StepName, folder: Path, stderr: int, seconds: float) -> int:
        process = self._start(step, folder, stderr, seconds)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise _failed(step, f"it did not end within {seconds:g} s") from None
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)

    def _start(
        self, step: StepName, folder: Path, stderr: int, seconds: float
    ) -> subprocess.Popen[bytes]:
        module = "quarterdeck_controller.optimize.child"
        words = [sys.executable, "-m", module, step, str(folder)]
        words += [str(self.bounds.memory_mb), str(int(seconds) + 1)]
        with self._lock:
            if self._closed:
                raise _failed(step, "the optimization was stopped")
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=_environment(folder),
            )
            self._running.add(process)
        return process


_SECRETS = ("QUARTERDECK_PASSPHRASE", "QUARTERDECK_TOKEN", "QUARTERDECK_IDENTITY")
"""Variables that begin so open keys and doors; a child may run a hostile model."""


def _environment(folder: Path) -> dict[str, str]:
    fixed = {
        "TMPDIR": str(folder),  # what a killed child leaves goes with the folder
        "PYTHONHASHSEED": "0",  # the same bytes from the same input
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_SECRETS)
    }
    return inherited | fixed


def _read_answer(folder: Path, answer: type[A]) -> A:
    refused = folder / "refused.json"
    if refused.is_file():
        told = Refused.model_validate_json(refused.read_bytes())
        raise RejectedError(told.code, told.detail)
    return answer.model_validate_json((folder / "answer.json").read_bytes())


class Refused(Record):
    """What a child writes instead of an answer."""

    code: Code
    detail: str


def _how_it_ended(code: int, told: str) -> str:
    if code < 0:
        names = {signal.value: signal.name for signal in Signals}
        name = names.get(-code, f"signal {-code}")
        return f"the runtime crashed ({name})" + (f": {told}" if told else "")
    return told or f"it ended with exit code {code}"


def _read_tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return ""
    # an exception's own name is enough, not the module it lives in
    return re.sub(r"^[\w.]+\.(\w+: )", r"\1", lines[-1])[:MAX_TOLD]


def _failed(step: StepName, how: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, f"the model failed to {step}: {how}")
