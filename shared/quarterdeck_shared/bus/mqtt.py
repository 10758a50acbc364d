"""The bus over a real broker: one session after another, for as long as it takes.

Each connection is a ``Session`` of its own; what outlives them is here: who
subscribed, how long to wait before the next attempt, and why the last one failed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from quarterdeck_shared.bus.backoff import Backoff, Rng
from quarterdeck_shared.bus.handlers import Handlers, Subscription, call_all
from quarterdeck_shared.bus.link import explain, open_wire
from quarterdeck_shared.bus.port import Endpoint, Handler, Will
from quarterdeck_shared.bus.session import Session
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
"""TCP, TLS and CONNACK together; a healthy broker far away needs two seconds."""


class MqttBus:
    """A session with a broker at ``endpoint``; see ``port.Bus`` for the contract."""

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: str,
        *,
        clock: Clock,
        rng: Rng,
        keepalive_s: int = 60,
    ) -> None:
        """Take the parts.

        Args:
            endpoint: Where the broker is; its files are read at every connect.
            client_id: The MQTT client id: a secret, drawn at every start of a process,
                by which the session could be taken over. It is never logged.
            clock: What connections are timed by.
            rng: Where the jitter of the waits comes from.
            keepalive_s: How soon a silent connection is noticed, at 1.5 times this.
        """
        self._endpoint = endpoint
        self._client_id = client_id
        self._clock = clock
        self._rng = rng
        self._keepalive_s = keepalive_s
        self._handlers = Handlers()
        self._on_connected: list[Callable[[], None]] = []
        self._on_disconnected: list[Callable[[], None]] = []
        self._make_will: Callable[[int], Will] | None = None
        self._connections = 0
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._trouble: QuarterdeckError | None = None
        self._backoff = Backoff()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._hurry = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the session is up now."""
        return self._up.is_set()

    @property
    def trouble(self) -> QuarterdeckError | None:
        """Why the last attempt to connect failed; None while connected."""
        return self._trouble

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called each time the session has come up."""
        self._on_connected.append(callback)

    def on_disconnected(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called each time the session has been lost."""
        self._on_disconnected.append(callback)

    def set_will(self, make: Callable[[int], Will]) -> None:
        """Have ``make`` called with the connection's number before each connect."""
        self._make_will = make

    async def start(self) -> None:
        """Begin to connect, and return without waiting for it."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_connected(), name="bus")

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once the session is up, or raise why it is not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError as error:
            where = f"{self._endpoint.host}:{self._endpoint.port}"
            raise self._trouble or TransientError(
                Code.BROKER_UNREACHABLE, f"{where}: no session within {timeout_s:g} s"
            ) from error

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False
    ) -> None:
        """Publish at QoS 1 and return when the broker has acknowledged."""
        if self._session is None:
            raise TransientError(Code.NOT_CONNECTED, f"{topic} was not published")
        await self._session.publish(topic, payload, retain=retain)

    def publish_fast(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0; return False while disconnected or backed up."""
        return self._session is not None and self._session.send(topic, payload)

    async def subscribe(self, pattern: str, handler: Handler, *, qos: int = 1) -> None:
        """Have ``handler`` called for what matches, now and after reconnecting."""
        subscription = Subscription(pattern, handler, qos)
        self._handlers.add(subscription)
        if self._session is not None:
            await _unless_lost(self._session.subscribe(subscription))

    async def unsubscribe(self, pattern: str) -> None:
        """Stop hearing ``pattern``."""
        self._handlers.remove(pattern)
        if self._session is not None:
            await _unless_lost(self._session.unsubscribe(pattern))

    async def reconnect(self) -> None:
        """End the session cleanly, and have another opened at once."""
        self._hurry.set()
        if self._session is not None:
            await self._session.close()

    async def close(self) -> None:
        """Disconnect cleanly, which suppresses the will, and stop reconnecting."""
        task, self._task = self._task, None
        self._closing = True
        if self._session is not None:
            await self._session.close()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_connected(self) -> None:
        while not self._closing:
            try:
                await self._connect_and_serve()
            except QuarterdeckError as error:
                self._take_note(error)
            await self._pause()

    async def _pause(self) -> None:
        """Wait before the next attempt, unless somebody is in a hurry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._backoff.delay_s(self._rng)):
                await self._hurry.wait()
        if self._hurry.is_set():
            self._hurry.clear()
            self._backoff = Backoff()

    async def _connect_and_serve(self) -> None:
        """Bring one session up and stay until it is over; a loss raises its reason."""
        try:
            session = await self._open()
        except QuarterdeckError:
            self._backoff = self._backoff.after_failure()
            raise
        began = self._clock.monotonic()
        try:
            self._session = session
            await self._resume(session)
            await session.lost
        finally:
            lasted_s = self._clock.monotonic() - began
            self._backoff = self._backoff.after_loss(lasted_s)
            session.abort()
            self._go_down()
        if not (self._closing or self._hurry.is_set()):
            raise self._explain_loss(session)

    async def _open(self) -> Session:
        self._connections += 1
        will = self._make_will(self._connections) if self._make_will else None
        began = self._clock.monotonic()
        wire = await open_wire(self._endpoint, timeout_s=CONNECT_TIMEOUT_S)
        session = Session(
            self._endpoint,
            self._client_id,
            wire,
            handlers=self._handlers,
            on_lost=self._go_down,
        )
        left_s = CONNECT_TIMEOUT_S - (self._clock.monotonic() - began)
        try:
            await session.open(will, keepalive_s=self._keepalive_s, timeout_s=left_s)
        except BaseException:
            session.abort()
            raise
        return session

    async def _resume(self, session: Session) -> None:
        """Subscribe again, then tell everybody that the session is up."""
        for subscription in self._handlers.all():
            try:
                await _unless_lost(session.subscribe(subscription))
            except RejectedError as error:
                log.warning("event=subscription_refused %s", error)
        if session.lost.done():
            return
        if self._trouble is not None:
            log.info("event=broker_connected attempt=%d: connected", self._connections)
        self._trouble = None
        self._up.set()
        call_all(self._on_connected)

    def _go_down(self) -> None:
        self._session = None
        if self._up.is_set():
            self._up.clear()
            call_all(self._on_disconnected)

    def _explain_loss(self, session: Session) -> QuarterdeckError:
        if not self._backoff.looks_turned_away:
            return explain(session.wire.error, self._endpoint)
        where = f"{self._endpoint.host}:{self._endpoint.port}"
        return RejectedError(
            Code.BROKER_REFUSED,
            f"{where}: {self._backoff.shorts} sessions in a row were cut right after "
            "they began; a broker does that to who may not publish what it does",
        )

    def _take_note(self, error: QuarterdeckError) -> None:
        repeated = self._trouble is not None and self._trouble.code == error.code
        self._trouble = error
        log.log(
            logging.DEBUG if repeated else logging.WARNING,
            "event=broker_lost attempt=%d code=%s: %s",
            self._connections,
            error.code,
            error.detail,
        )


async def _unless_lost(asked: Awaitable[None]) -> None:
    """Await ``asked``; a connection lost meanwhile is no failure.

    What was asked for is remembered and done again with the next connection.
    """
    try:
        await asked
    except TransientError as error:
        if error.code is not Code.NOT_CONNECTED:
            raise
