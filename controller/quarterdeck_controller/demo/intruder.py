"""Somebody who has the broker: the demo's attacker, and its eye on the wire.

It holds the controller's own certificate, so that no permission stands in its way: what
is refused is refused by the device.
"""

import asyncio
import secrets
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from quarterdeck_controller.home import Home
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint, Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.transfer import ChunkFrame

TIMEOUT_S = 10.0


class Intruder:
    """A session of its own, on a loop in a thread of its own."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._bus: MqttBus | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._connect())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bus is not None:
            self._call(self._bus.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish anything anywhere."""
        self._call(self._session.publish(topic, payload, retain=retain))

    def when_broadcast(
        self,
        device_class: str,
        artifact: str,
        count: int,
        act: Callable[[], None],
    ) -> Callable[[float], None]:
        """Have ``act`` called at once when ``count`` chunks were broadcast.

        Returns what waits until it was.
        """
        acted = threading.Event()
        numbers: set[int] = set()

        def count_one(message: Message) -> None:
            numbers.add(ChunkFrame.decode(message.payload).number)
            if len(numbers) >= count and not acted.is_set():
                act()
                acted.set()

        topic = topics.chunks(device_class, artifact)
        self._call(self._session.subscribe(topic, count_one, qos=0))

        def wait(timeout_s: float) -> None:
            if not acted.wait(timeout_s):
                raise TransientError(
                    Code.TIMED_OUT, f"{len(numbers)} of {count} chunks were broadcast"
                )

        return wait

    @property
    def _session(self) -> MqttBus:
        assert self._bus is not None
        return self._bus

    async def _connect(self) -> None:
        broker, authority = self._home.settings().broker, self._home.authority
        endpoint = Endpoint(
            broker.host,
            broker.port,
            ca=authority / "root.pem",
            certificate=authority / "controller.pem",
            key=authority / "controller.key",
        )
        self._bus = MqttBus(
            endpoint, "intruder", clock=SystemClock(), rng=secrets.SystemRandom()
        )
        await self._bus.start()
        await self._bus.wait_connected(TIMEOUT_S)

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT_S)
