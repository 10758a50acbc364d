"""The device's trust with its fetcher, wired; loading this module is what costs.

The libraries behind it take a third of a second and many megabytes, which an agent
that only serves what it has does not need: ``lazy.py`` loads this with the first
assignment.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from quarterdeck_agent.settings import Settings
from quarterdeck_agent.update.lazy import TRUST
from quarterdeck_agent.update.metadata import MetadataFetcher
from quarterdeck_agent.update.ports import Accepted
from quarterdeck_agent.update.trust import Trust
from quarterdeck_shared.bus.port import Bus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.reported import Slot

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
"""No honest clock is earlier."""

_START_S = 10.0


class Judge:
    """Checks assignments with the root that came at enrolment.

    Raises:
        TransientError: The broker did not answer in time, or the root cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        bus: Bus,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        running: Callable[[], Slot | None],
        notice: Callable[[Code, str], None],
    ) -> None:
        self._fetcher = MetadataFetcher(bus, settings.device, loop)
        _start(self._fetcher, loop)
        self._trust = Trust(
            settings.state / TRUST,
            device=settings.device,
            device_class=settings.device_class,
            root=_read(settings.root),
            fetcher=self._fetcher,
            clock=clock,
            built=BUILT,
            running=running,
            notice=notice,
        )

    def accept(self, envelope: bytes) -> Accepted:
        """Check an assignment's envelope, as ``Trust.accept`` does."""
        return self._trust.accept(envelope)

    def refresh(self) -> None:
        """Bring signed metadata up to date, as ``Trust.refresh`` does."""
        self._trust.refresh()

    def close(self) -> None:
        """Let go of the thread that waits for an answer."""
        self._fetcher.close()


def _start(fetcher: MetadataFetcher, loop: asyncio.AbstractEventLoop) -> None:
    starting = asyncio.run_coroutine_threadsafe(fetcher.start(), loop)
    try:
        starting.result(_START_S)
    except TimeoutError as error:
        starting.cancel()
        raise TransientError(
            Code.TIMED_OUT, f"subscribing to metadata took {_START_S} s"
        ) from error


def _read(root: Path) -> bytes:
    try:
        return root.read_bytes()
    except OSError as error:
        raise TransientError(disk_code(error), f"{root}: {error.strerror}") from error
