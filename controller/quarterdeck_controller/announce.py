"""What the controller says of itself: its birth and will, and the newest timestamp."""

import asyncio
import logging
from collections.abc import Callable

from quarterdeck_controller.repository.repository import Renewal, Repository
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Will
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError, TransientError
from quarterdeck_shared.patience import wait_at_most
from quarterdeck_shared.reported import SessionState

LOOK_EVERY_S = 0.3
"""How soon devices hear of what another process has published in the repository."""

RENEW_EVERY_S = 600.0
log = logging.getLogger(__name__)


class Announcer:
    """Keeps the two retained topics of the controller true (PROTOCOL.md section 3).

    Args:
        record: Is told, in a thread, of metadata that was signed again.
    """

    def __init__(
        self,
        bus: Bus,
        repository: Repository,
        clock: Clock,
        *,
        boot: int,
        record: Callable[[Renewal], None] = lambda _: None,
    ) -> None:
        self._bus = bus
        self._record = record
        self._repository = repository
        self._clock = clock
        self._boot = boot
        self._connection = 0
        self._stale = asyncio.Event()
        self._announced = b""
        bus.set_will(self._will)
        bus.on_connected(self._connected)

    async def run(self) -> None:
        """Announce and renew until cancelled."""
        renew_at = self._clock.monotonic()
        while True:
            if self._clock.monotonic() >= renew_at:
                await self._renew()
                renew_at = self._clock.monotonic() + RENEW_EVERY_S
            if self._bus.connected:
                await self._announce()
            await wait_at_most(self._stale, LOOK_EVERY_S)
            self._stale.clear()

    async def leave(self) -> None:
        """Say that this controller goes, as its will would."""
        state = self._state(online=False)
        try:
            await self._bus.publish(topics.CONTROLLER_STATE, state, retain=True)
        except TransientError as error:
            log.debug("event=leave_unsaid code=%s", error.code)

    def _connected(self) -> None:
        self._announced = b""
        self._stale.set()

    def _will(self, connection: int) -> Will:
        self._connection = connection
        return Will(topics.CONTROLLER_STATE, self._state(online=False))

    def _state(self, *, online: bool) -> bytes:
        state = SessionState(
            online=online, boot=self._boot, connection=self._connection
        )
        return state.encode()

    async def _announce(self) -> None:
        timestamp = await asyncio.to_thread(self._repository.timestamp)
        if timestamp == self._announced:
            return
        try:
            if not self._announced:
                state = self._state(online=True)
                await self._bus.publish(topics.CONTROLLER_STATE, state, retain=True)
            await self._bus.publish(topics.METADATA_TIMESTAMP, timestamp, retain=True)
        except TransientError as error:
            log.debug("event=announcement_held code=%s", error.code)
            return
        self._announced = timestamp

    async def _renew(self) -> None:
        try:
            renewal = await asyncio.to_thread(self._repository.renew, self._clock.now())
            if renewal.renewed or renewal.requests:
                await asyncio.to_thread(self._record, renewal)
        except QuarterdeckError as error:
            log.warning("event=renewal_held code=%s: %s", error.code, error.detail)
            return
        if renewal.renewed:
            log.info("event=renewed roles=%s", ",".join(renewal.renewed))
        if renewal.waiting:
            log.warning(
                "event=renewal_waits roles=%s: half of their validity is over and their"
                " keys are not on this machine; quarterdeck key requests shows whose"
                " signatures are needed",
                ",".join(renewal.waiting),
            )
        for request in renewal.requests:
            log.warning(
                "event=request_opened request=%s: quarterdeck key export %s",
                request,
                request,
            )
