"""Trust that is loaded with the first assignment, in the thread that verifies it."""

import asyncio
import importlib
from typing import Protocol, cast

from quarterdeck_agent.settings import Settings
from quarterdeck_agent.update.ports import Accepted, Trust
from quarterdeck_shared.bus.port import Bus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError

_JUDGE = "quarterdeck_agent.update.judge"


class _Judge(Trust, Protocol):
    def close(self) -> None: ...


class LazyTrust:
    """Stands for the device's trust until it is needed. One ``accept`` at a time."""

    def __init__(self, settings: Settings, bus: Bus, clock: Clock) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._judge: _Judge | None = None
        self._closed = False

    def accept(self, envelope: bytes) -> Accepted:
        """Check an assignment's envelope, as ``Trust.accept`` does."""
        if self._judge is None:
            self._judge = self._load()
        if self._closed:
            raise TransientError(Code.NOT_CONNECTED, "the agent is stopping")
        return self._judge.accept(envelope)

    def close(self) -> None:
        """Let go of a thread that waits, so that the agent can stop at once."""
        self._closed = True
        if self._judge is not None:
            self._judge.close()

    def _load(self) -> _Judge:
        judge = importlib.import_module(_JUDGE).Judge(
            self._settings, bus=self._bus, clock=self._clock, loop=self._loop
        )
        return cast("_Judge", judge)
