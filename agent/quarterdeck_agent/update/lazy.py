"""Trust that is loaded when it is first needed, in the thread that verifies."""

import asyncio
import importlib
import threading
from collections.abc import Callable
from typing import Protocol, cast

from quarterdeck_agent.settings import Settings
from quarterdeck_agent.update.ports import Accepted, Trust
from quarterdeck_shared.bus.port import Bus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.reported import Slot

_JUDGE = "quarterdeck_agent.update.judge"

TRUST = "trust"
"""The folder of the device's judgement, in its state folder."""

Notice = Callable[[Code, str], None]


class _Judge(Trust, Protocol):
    def refresh(self) -> None: ...

    def close(self) -> None: ...


class LazyTrust:
    """Stands for the device's trust until it is needed; one call at a time.

    Args:
        running: Returns what runs on the device.
        notice: Called on the loop with what is wrong though nothing was refused.

    Attributes:
        on_late: Called on the loop when an assignment could not be judged for want of
            an answer.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        clock: Clock,
        *,
        running: Callable[[], Slot | None] = lambda: None,
        notice: Notice = lambda _code, _detail: None,
    ) -> None:
        self.on_late: Callable[[], None] = lambda: None
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._running = running
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._one = threading.Lock()
        self._judge: _Judge | None = None
        self._closed = False

    def accept(self, envelope: bytes) -> Accepted:
        """Check an assignment's envelope, as ``Trust.accept`` does."""
        with self._one:
            try:
                return self._ready().accept(envelope)
            except TransientError:
                self._loop.call_soon_threadsafe(self.on_late)
                raise

    def refresh(self) -> None:
        """Bring signed metadata up to date, as ``Trust.refresh`` does."""
        with self._one:
            self._ready().refresh()

    def close(self) -> None:
        """Let go of a thread that waits, so that the agent can stop at once."""
        self._closed = True
        if self._judge is not None:
            self._judge.close()

    def _ready(self) -> _Judge:
        if self._judge is None:
            self._judge = self._load()
        if self._closed:
            raise TransientError(Code.NOT_CONNECTED, "the agent is stopping")
        return self._judge

    def _load(self) -> _Judge:
        judge = importlib.import_module(_JUDGE).Judge(
            self._settings,
            bus=self._bus,
            clock=self._clock,
            loop=self._loop,
            running=self._running,
            notice=self._tell,
        )
        return cast("_Judge", judge)

    def _tell(self, code: Code, detail: str) -> None:
        self._loop.call_soon_threadsafe(self._notice, code, detail)
