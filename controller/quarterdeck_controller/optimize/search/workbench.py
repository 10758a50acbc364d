"""Carries out steps and remembers what they made.

What takes times (``measure``) runs while nothing else of this search does: on a busy
machine int8 and float slow down differently.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_controller.optimize.search.cache import ANSWER, Cache
from quarterdeck_controller.optimize.steps import Record, StepName

A = TypeVar("A", bound=Record)

OUT = "out"
ALONE: frozenset[StepName] = frozenset({"measure"})
"""Steps whose results hold for this machine alone."""
UNHURRIED: frozenset[StepName] = frozenset({"train"})
"""Steps so long that measuring does not wait for them."""


@dataclass(frozen=True)
class Made(Generic[A]):
    """A step's answer, and the file or folder it made."""

    answer: A
    path: Path
    cached: bool


@dataclass(slots=True)
class Workbench:
    """A sandbox with a memory. Safe to use from several threads.

    Attributes:
        machine: Names this machine in what was measured on it.
    """

    sandbox: Sandbox
    cache: Cache
    machine: str
    workers: int = 2
    _turns: "_Turns" = field(init=False)
    _making: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._turns = _Turns(self.workers)

    def make(
        self,
        step: StepName,
        request: Callable[[Path], Record],
        answer: type[A],
        *,
        out: str = OUT,
        seconds: float | None = None,
    ) -> Made[A]:
        """Return what ``step`` answers and what it made, from memory where possible.

        Args:
            step: What to do.
            request: The request, given where to put what is made.
            answer: What the step answers.
            out: Name of the file or folder that is made.
            seconds: The step's time, where the sandbox's own does not fit.

        Raises:
            RejectedError: As ``Sandbox.run``. Failures are not remembered.
        """
        here = self.machine if step in ALONE else ""
        key = self.cache.key(step, request(Path(out)), salt=here)
        with self._only_once(key):
            entry = self.cache.find(key)
            if entry is not None:
                told = answer.model_validate_json((entry / ANSWER).read_bytes())
                return Made(told, entry / out, cached=True)
            fresh = self.cache.begin()
            try:
                with self._turns.take(step):
                    done = self.sandbox.run(
                        step, request(fresh / out), answer, seconds=seconds
                    )
                entry = self.cache.commit(fresh, key, done)
            except BaseException:
                self.cache.abandon(fresh)
                raise
        return Made(done, entry / out, cached=False)

    @contextmanager
    def _only_once(self, key: str) -> Iterator[None]:
        """Let two threads that want the same wait for the first."""
        with self._lock:
            lock = self._making.setdefault(key, threading.Lock())
        with lock:
            yield


class _Turns:
    """Lets several steps run at a time, or one alone."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._running = 0
        self._alone = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, step: StepName) -> Iterator[None]:
        if step in UNHURRIED:
            yield
            return
        with self._changed:
            if step in ALONE:
                self._alone += 1
                self._changed.wait_for(lambda: self._running == 0)
            else:
                self._changed.wait_for(
                    lambda: self._alone == 0 and self._running < self._workers
                )
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._alone -= step in ALONE
                self._changed.notify_all()
