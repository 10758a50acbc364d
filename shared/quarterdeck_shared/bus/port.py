"""The bus port: one MQTT 3.1.1 session, whatever carries it.

A session connects in the background and keeps reconnecting until it is closed;
subscriptions are made again after every reconnection. Handlers run on the event
loop and must return at once: whoever needs to wait hands over to a queue with a
bound of its own. Nothing here retries a publish: state is published again by its
owner when the session comes up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quarterdeck_shared.errors import QuarterdeckError


@dataclass(frozen=True, slots=True)
class Message:
    """What arrived: ``retained`` is True for state kept by the broker."""

    topic: str
    payload: bytes
    retained: bool = False


Handler = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when the connection is lost."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the broker is and who we are to it.

    Attributes:
        ca: The certificate authority that vouches for the broker.
        certificate: Our own certificate chain (PEM).
        key: Our private key (PEM).
        username: For a broker that asks for a password beside the certificate.
        password: Its password.
    """

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path
    username: str | None = None
    password: str | None = None


class Bus(Protocol):
    """One session. All methods are called on one event loop."""

    @property
    def connected(self) -> bool:
        """Whether the session is up now."""
        ...

    @property
    def trouble(self) -> QuarterdeckError | None:
        """Why the last attempt to connect failed; None while connected."""
        ...

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called each time the session has come up."""
        ...

    def on_disconnected(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called each time the session has been lost."""
        ...

    def set_will(self, make: Callable[[int], Will]) -> None:
        """Have ``make`` called with the connection's number before each connect.

        The first connection is number 1.
        """
        ...

    async def start(self) -> None:
        """Begin to connect, and return without waiting for it."""
        ...

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once the session is up.

        Raises:
            QuarterdeckError: The reason why it is not, when ``timeout_s`` is over.
        """
        ...

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False
    ) -> None:
        """Publish at QoS 1 and return when the broker has acknowledged.

        Raises:
            TransientError: ``NOT_CONNECTED`` or ``TIMED_OUT``.
        """
        ...

    def publish_fast(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0, or return False and send nothing.

        It declines while disconnected, and while megabytes wait for the socket.
        """
        ...

    async def subscribe(self, pattern: str, handler: Handler, *, qos: int = 1) -> None:
        """Have ``handler`` called for what matches, now and after reconnecting.

        Returns once the broker has granted it, or at once while disconnected.
        One handler per pattern; subscribing again replaces it.

        Raises:
            RejectedError: ``BROKER_REFUSED`` when a broker says that it is not
                allowed; mosquitto never says so.
            TransientError: ``TIMED_OUT``.
        """
        ...

    async def unsubscribe(self, pattern: str) -> None:
        """Stop hearing ``pattern``."""
        ...

    async def reconnect(self) -> None:
        """End the session cleanly, and have another opened at once.

        It is opened with what the files of the endpoint hold by then: after a
        certificate was replaced. A session that is away is tried at once.
        """
        ...

    async def close(self) -> None:
        """Disconnect cleanly, which suppresses the will, and stop reconnecting."""
        ...
