"""One MQTT connection: paho-mqtt driven by our own event loop.

A new paho client is made for each connection, so that nothing it remembers of a lost
one can be sent on the next. Its callbacks hold no logic: they resolve futures or
dispatch. This is the only file that imports paho.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from quarterdeck_shared.bus.handlers import Handlers, Subscription
from quarterdeck_shared.bus.link import Wire, explain
from quarterdeck_shared.bus.port import Endpoint, Message, Will
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError

T = TypeVar("T")

ANSWER_TIMEOUT_S = 10.0
"""Longest wait for a PUBACK or SUBACK before the message counts as lost."""

IN_FLIGHT = 128
"""QoS 1 messages published and not yet acknowledged; more wait for their turn."""

FAST_BACKLOG_BYTES = 2 << 20
"""QoS 0 bytes that may wait for the socket; past it ``publish_fast`` declines."""

_READS_A_TURN = 64
_CLOSE_TIMEOUT_S = 2.0
_REFUSALS = frozenset(
    {
        "Unsupported protocol version",
        "Client identifier not valid",
        "Bad user name or password",
        "Not authorized",
    }
)


class Session:
    """One connection, from CONNECT to its loss.

    Attributes:
        wire: The TLS connection it runs on.
        lost: Done when the connection is over, for whatever reason; ``on_lost`` was
            called first.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: str,
        wire: Wire,
        *,
        handlers: Handlers,
        on_lost: Callable[[], None],
    ) -> None:
        self.wire = wire
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._endpoint = endpoint
        self._handlers = handlers
        self._on_lost = on_lost
        self._granted: asyncio.Future[str] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._fast: deque[tuple[MQTTMessageInfo, int]] = deque()
        self._fast_bytes = 0
        self._misc: asyncio.TimerHandle | None = None
        self._client = _PahoClient(client_id, wire)
        self._wire_callbacks()

    def _wire_callbacks(self) -> None:
        client = self._client
        client.on_socket_open = lambda *_: self._watch()
        client.on_socket_close = lambda *_: self._unwatch()
        client.on_socket_register_write = lambda *_: self._write_soon()
        client.on_socket_unregister_write = lambda *_: self._stop_writing()
        client.on_connect = lambda _c, _u, _f, reason, _p: _resolve(
            self._granted, reason.getName()
        )
        client.on_publish = lambda _c, _u, mid, _r, _p: self._answered(mid, good=True)
        client.on_subscribe = lambda _c, _u, mid, reasons, _p: self._answered(
            mid, good=not any(reason.is_failure for reason in reasons)
        )
        client.on_unsubscribe = lambda _c, _u, mid, _r, _p: self._answered(
            mid, good=True
        )
        client.on_message = lambda _c, _u, message: self._heard(message)
        client.on_disconnect = lambda *_: self._end()

    async def open(
        self, will: Will | None, *, keepalive_s: int, timeout_s: float
    ) -> None:
        """Say CONNECT and return when the broker has accepted.

        Raises:
            QuarterdeckError: Why there is no session.
        """
        where = f"{self._endpoint.host}:{self._endpoint.port}"
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)
        self._client.username_pw_set(self._endpoint.username, self._endpoint.password)
        self._client.connect_async(
            self._endpoint.host, self._endpoint.port, keepalive_s
        )
        self._client.reconnect()
        self._tick(max(1.0, keepalive_s / 8))
        try:
            async with asyncio.timeout(timeout_s):
                waits: list[asyncio.Future[Any]] = [self._granted, self.lost]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise TransientError(
                Code.BROKER_UNREACHABLE, f"{where}: the broker sent no CONNACK"
            ) from error
        if not self._granted.done():
            raise explain(self.wire.error, self._endpoint)
        if self._granted.result() != "Success":
            raise _refusal(self._granted.result(), where)

    async def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish at QoS 1 and wait for the PUBACK."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._room:
                info = self._client.publish(topic, payload, qos=1, retain=retain)
                await self._answer(info.rc, info.mid, topic)
        except TimeoutError as error:
            raise _timed_out(f"PUBACK for {topic}") from error

    def send(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0 unless too much is waiting for the socket already."""
        while self._fast and self._fast[0][0].is_published():
            self._fast_bytes -= self._fast.popleft()[1]
        if self.lost.done() or self._fast_bytes > FAST_BACKLOG_BYTES:
            return False
        info = self._client.publish(topic, payload, qos=0)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._fast.append((info, len(payload)))
        self._fast_bytes += len(payload)
        return True

    async def subscribe(self, subscription: Subscription) -> None:
        """Subscribe and wait for the SUBACK."""
        pattern = subscription.pattern
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                code, mid = self._client.subscribe(pattern, subscription.qos)
                granted = await self._answer(code, mid, pattern)
        except TimeoutError as error:
            raise _timed_out(f"SUBACK for {pattern}") from error
        if not granted:
            detail = f"the broker does not let us read {pattern}"
            raise RejectedError(Code.BROKER_REFUSED, detail)

    async def unsubscribe(self, pattern: str) -> None:
        """Unsubscribe and wait for the UNSUBACK."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                code, mid = self._client.unsubscribe(pattern)
                await self._answer(code, mid, pattern)
        except TimeoutError as error:
            raise _timed_out(f"UNSUBACK for {pattern}") from error

    async def close(self) -> None:
        """Say DISCONNECT, so that the broker drops the will."""
        self._client.disconnect()
        await asyncio.wait([self.lost], timeout=_CLOSE_TIMEOUT_S)
        self.abort()

    def abort(self) -> None:
        """Drop the connection and fail whoever still waits for an answer."""
        self._client.drop()
        self._end()

    async def _answer(self, code: int, mid: int | None, what: str) -> bool:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise _lost(what)
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._answers[mid] = answer
        try:
            return await answer
        finally:
            self._answers.pop(mid, None)

    def _answered(self, mid: int, *, good: bool) -> None:
        if (answer := self._answers.get(mid)) is not None:
            _resolve(answer, good)

    def _heard(self, message: MQTTMessage) -> None:
        self._handlers.dispatch(
            Message(message.topic, bytes(message.payload), message.retain)
        )

    def _watch(self) -> None:
        self._loop.add_reader(self.wire, self._read)

    def _unwatch(self) -> None:
        self._loop.remove_reader(self.wire)

    def _stop_writing(self) -> None:
        self._loop.remove_writer(self.wire)

    def _read(self) -> None:
        """Read until nothing is left, or hand over to the loop for a turn."""
        for _ in range(_READS_A_TURN):
            self._client.loop_read()
            if self.lost.done() or self.wire.drained:
                return
        self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.lost.done():
            self._read()

    def _write_soon(self) -> None:
        """Write at the end of this turn, all that was published in it at once."""
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        if self.lost.done():
            return
        self._client.loop_write()
        if not self.lost.done() and self._client.want_write():
            self._loop.add_writer(self.wire, self._write)

    def _tick(self, every_s: float) -> None:
        """Let paho send its pings and notice a broker that fell silent."""
        if self.lost.done():
            return
        self._client.loop_misc()
        self._misc = self._loop.call_later(every_s, self._tick, every_s)

    def _end(self) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        self._on_lost()
        if self._misc is not None:
            self._misc.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(_lost("no answer came"))


class _PahoClient(Client):
    """paho over a connection that is already open."""

    def __init__(self, client_id: str, wire: Wire) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self.max_inflight_messages_set(0)
        self._open_wire = wire

    def drop(self) -> None:
        """Close the socket at once."""
        self._sock_close()

    def _create_socket(self) -> Any:  # noqa: ANN401 - paho's SocketLike is private
        return self._open_wire


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _refusal(reason: str, where: str) -> QuarterdeckError:
    detail = f"{where}: {reason}"
    if reason in _REFUSALS:
        return RejectedError(Code.BROKER_REFUSED, detail)
    return TransientError(Code.BROKER_UNREACHABLE, detail)


def _timed_out(what: str) -> TransientError:
    return TransientError(Code.TIMED_OUT, f"no {what} within {ANSWER_TIMEOUT_S:g} s")


def _lost(what: str) -> TransientError:
    return TransientError(Code.NOT_CONNECTED, f"{what}: the connection was lost")
