"""The device's end of the session with its controller (PROTOCOL.md section 3).

State, what is reported and what happened go out from one task, newest state first;
what cannot be sent now is published again when the session comes up. Nothing here
waits for the controller.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message, Will
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.reported import Reported, SessionState

EVENTS = 64
"""Events kept while offline; the oldest make room."""
GOODBYE_S = 1.0
_AGAIN_S = 1.0

log = logging.getLogger(__name__)


class Link:
    """Birth, will, reported state and events; hears assignments and the controller.

    Args:
        client: The session's MQTT client id, which only the controller is told.
        generation: Says of which generation the certificate in use is.
        report: Says what to report now.
        on_assignment: Gets each assignment's envelope, unverified.
        on_news: Called when the controller or the metadata may have changed.
        on_timestamp: Gets the newest timestamp as it was announced, unverified.
    """

    def __init__(
        self,
        bus: Bus,
        device: str,
        boot: int,
        *,
        client: str = "",
        generation: Callable[[], int] = lambda: 0,
        report: Callable[[], Reported],
        on_assignment: Callable[[bytes], None],
        on_news: Callable[[], None],
        on_timestamp: Callable[[bytes], None] = lambda _timestamp: None,
    ) -> None:
        self._bus = bus
        self._device = device
        self._boot = boot
        self._client = client
        self._generation = generation
        self._report = report
        self._on_assignment = on_assignment
        self._on_news = on_news
        self._on_timestamp = on_timestamp
        self._connection = 0
        self._born = False
        self._controller = SessionState(online=False, boot=0, connection=0)
        self._events: deque[StepEvent] = deque(maxlen=EVENTS)
        self._due = asyncio.Event()

    @property
    def controller_boot(self) -> int:
        """The controller's boot, which chunks are counted in; 0 before it is heard."""
        return self._controller.boot

    @property
    def controller_online(self) -> bool:
        """Whether the controller says that it is there."""
        return self._controller.online

    async def start(self) -> None:
        """Register the will and what is to be heard. Before the bus is started."""
        self._bus.set_will(self._will)
        self._bus.on_connected(self._on_connected)
        for pattern, handler in (
            (topics.down(self._device, topics.DOWN_ASSIGNMENT), self._hear_assignment),
            (topics.down(self._device, topics.DOWN_REBIRTH), self._hear_rebirth),
            (topics.CONTROLLER_STATE, self._hear_controller),
            (topics.METADATA_TIMESTAMP, self._hear_timestamp),
        ):
            await self._bus.subscribe(pattern, handler)

    def tell(self, event: StepEvent | None = None) -> None:
        """Report the state anew, and that ``event`` happened."""
        if event is not None:
            self._events.append(event)
        self._due.set()

    async def run(self) -> None:
        """Publish what is due until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            if not self._bus.connected:
                continue
            try:
                await self._publish_due()
            except TransientError as error:
                log.debug("reporting waits: %s", error)
                await asyncio.sleep(_AGAIN_S)
                self._due.set()

    async def stop(self) -> None:
        """Say goodbye, if there is somebody to say it to."""
        if not self._bus.connected:
            return
        with suppress(QuarterdeckError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._publish_state(online=False)

    async def _publish_due(self) -> None:
        if not self._born:
            await self._publish_state(online=True)
            self._born = True
        reported = self._report().encode()
        topic = topics.up(self._device, topics.UP_REPORTED)
        await self._bus.publish(topic, reported, retain=True)
        while self._events:
            event = self._events[0]
            topic = topics.up(self._device, topics.UP_EVENT)
            await self._bus.publish(topic, event.encode())
            if self._events and self._events[0] is event:
                self._events.popleft()

    async def _publish_state(self, *, online: bool) -> None:
        will = self._state(online=online)
        await self._bus.publish(will.topic, will.payload, retain=True)

    def _state(self, *, online: bool) -> Will:
        state = SessionState(
            online=online,
            boot=self._boot,
            connection=self._connection,
            client=self._client,
            generation=self._generation(),
        )
        return Will(topics.up(self._device, topics.UP_STATE), state.encode())

    def _will(self, connection: int) -> Will:
        self._connection = connection
        return self._state(online=False)

    def _on_connected(self) -> None:
        log.info("connected to the broker (connection %d)", self._connection)
        self._born = False
        self._due.set()
        self._on_news()

    def _hear_assignment(self, message: Message) -> None:
        if message.payload:  # an empty one withdraws what was not begun (section 4)
            self._on_assignment(message.payload)

    def _hear_rebirth(self, _message: Message) -> None:
        self._born = False
        self._due.set()

    def _hear_timestamp(self, message: Message) -> None:
        self._on_timestamp(message.payload)
        self._on_news()

    def _hear_controller(self, message: Message) -> None:
        try:
            state = SessionState.decode(message.payload)
        except RejectedError as error:
            log.warning("the controller's state was dropped: %s", error)
            return
        came = state.online and state != self._controller
        self._controller = state
        if came:
            self._on_news()
