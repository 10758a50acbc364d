"""The bus without a network, for tests and simulations.

``MemoryBroker`` keeps the same contract as a real broker and passes the same suite;
what it leaves out is what has no wire: certificates and permissions.
"""

import asyncio
from collections.abc import Callable

from quarterdeck_shared.bus.handlers import Handlers, Subscription, call_all, matches
from quarterdeck_shared.bus.port import Handler, Message, Will
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, TransientError


class MemoryBroker:
    """Delivers messages between the sessions of one event loop."""

    def __init__(self) -> None:
        self._running = True
        self._buses: list[MemoryBus] = []
        self._sessions: dict[str, MemoryBus] = {}
        self._retained: dict[str, Message] = {}

    def stop(self, *, forget: bool = True) -> None:
        """Go down, which cuts every session without a will.

        ``forget`` also loses the retained messages, as a killed mosquitto does.
        """
        self._running = False
        if forget:
            self._retained.clear()
        for bus in tuple(self._sessions.values()):
            self._cut(bus)

    def start(self) -> None:
        """Come up again; sessions reconnect by themselves."""
        self._running = True
        for bus in self._buses:
            bus.connect_soon()

    def disconnect(self, client_id: str) -> None:
        """Cut the session of ``client_id`` abruptly: its will is published."""
        bus = self._sessions[client_id]
        self._cut(bus)
        self._publish_will(bus)
        bus.connect_soon()

    def attach(self, bus: "MemoryBus") -> None:
        """Remember ``bus`` as one that wants a session."""
        self._buses.append(bus)

    def detach(self, bus: "MemoryBus") -> None:
        """Forget ``bus``; a session it still has ends without a will."""
        if bus in self._buses:
            self._buses.remove(bus)
        if self._sessions.get(bus.client_id) is bus:
            self._cut(bus)

    def connect(self, bus: "MemoryBus") -> bool:
        """Open a session for ``bus``; an older one of its client id is taken over."""
        if not self._running:
            return False
        older = self._sessions.get(bus.client_id)
        if older is not None:
            self._cut(older)
            self._publish_will(older)
        self._sessions[bus.client_id] = bus
        return True

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Deliver to every session that subscribed, and keep it when retained."""
        if retain and payload:
            self._retained[topic] = Message(topic, payload, retained=True)
        elif retain:
            self._retained.pop(topic, None)
        for bus in tuple(self._sessions.values()):
            bus.deliver_soon(Message(topic, payload))

    def replay(self, bus: "MemoryBus", pattern: str) -> None:
        """Deliver what is retained for ``pattern``, as a new subscription gets it."""
        for message in tuple(self._retained.values()):
            if matches(pattern, message.topic):
                bus.deliver_soon(message)

    def _cut(self, bus: "MemoryBus") -> None:
        del self._sessions[bus.client_id]
        bus.lose()

    def _publish_will(self, bus: "MemoryBus") -> None:
        if bus.will is not None:
            self.publish(bus.will.topic, bus.will.payload, retain=True)


class MemoryBus:
    """A session with a ``MemoryBroker``; see ``port.Bus`` for the contract."""

    def __init__(self, broker: MemoryBroker, client_id: str) -> None:
        self.client_id = client_id
        self.will: Will | None = None
        self._broker = broker
        self._handlers = Handlers()
        self._on_connected: list[Callable[[], None]] = []
        self._on_disconnected: list[Callable[[], None]] = []
        self._make_will: Callable[[int], Will] | None = None
        self._connections = 0
        self._up = asyncio.Event()
        self._closed = False
        self._started = False

    @property
    def connected(self) -> bool:
        """Whether the session is up now."""
        return self._up.is_set()

    @property
    def trouble(self) -> QuarterdeckError | None:
        """Why there is no session; None while connected."""
        if self.connected or not self._started:
            return None
        return TransientError(Code.BROKER_UNREACHABLE, "the memory broker is stopped")

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
        self._started = True
        self._broker.attach(self)
        self.connect_soon()

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once the session is up, or raise why it is not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError as error:
            raise self.trouble or _not_connected() from error

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False
    ) -> None:
        """Publish at QoS 1 and return when the broker has it."""
        if not self.connected:
            raise _not_connected()
        self._broker.publish(topic, payload, retain=retain)
        await asyncio.sleep(0)  # as a real acknowledgement, it takes a turn

    def publish_fast(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0; return False, and send nothing, while disconnected."""
        if self.connected:
            self._broker.publish(topic, payload, retain=False)
        return self.connected

    async def subscribe(self, pattern: str, handler: Handler, *, qos: int = 1) -> None:
        """Have ``handler`` called for what matches, now and after reconnecting."""
        self._handlers.add(Subscription(pattern, handler, qos))
        if self.connected:
            self._broker.replay(self, pattern)
            await asyncio.sleep(0)

    async def unsubscribe(self, pattern: str) -> None:
        """Stop hearing ``pattern``."""
        self._handlers.remove(pattern)

    async def reconnect(self) -> None:
        """End the session without its will, and open another."""
        self._broker.detach(self)
        self._broker.attach(self)
        self.connect_soon()

    async def close(self) -> None:
        """End the session without its will, and do not connect again."""
        self._closed = True
        self._broker.detach(self)

    def connect_soon(self) -> None:
        """Connect at the loop's next turn, as the broker or ``start`` asks."""
        asyncio.get_running_loop().call_soon(self._connect)

    def deliver_soon(self, message: Message) -> None:
        """Dispatch ``message`` at the loop's next turn, in order."""
        asyncio.get_running_loop().call_soon(self._deliver, message)

    def lose(self) -> None:
        """Take note that the session is gone."""
        self._up.clear()
        call_all(self._on_disconnected)

    def _connect(self) -> None:
        if self._closed or self.connected:
            return
        self._connections += 1
        self.will = self._make_will(self._connections) if self._make_will else None
        if not self._broker.connect(self):
            return
        self._up.set()
        for subscription in self._handlers.all():
            self._broker.replay(self, subscription.pattern)
        call_all(self._on_connected)

    def _deliver(self, message: Message) -> None:
        if self.connected:
            self._handlers.dispatch(message)


def _not_connected() -> TransientError:
    return TransientError(Code.NOT_CONNECTED, "there is no session with the broker")
