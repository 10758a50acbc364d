"""The broker port: what a controller needs of the broker it runs itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.errors import QuarterdeckError

CONTROLLER = "controller"
"""Common name of the one certificate that may read and write every topic."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A device that may use the broker, and the class whose chunks it may read."""

    device: str
    device_class: str
    generations: tuple[int, ...] = (1,)
    """Which of the device's certificates count: the serial numbers in their subjects.
    One that was revoked or replaced is not among them."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Exactly who may use the broker, beside the controller.

    Attributes:
        claims: Common names of the claim certificates that may ask for an enrolment.
        revocations: Revocation lists (PEM) for brokers that read them. Give one from
            the beginning, if it names nobody: mosquitto takes up its first only when it
            is started anew, which cuts all sessions once. One that would lock the fleet
            out is left out, and said so; empty leaves the one before in place. What a
            certificate may do does not hang on it, but on its generation.
    """

    devices: tuple[Grant, ...] = ()
    claims: tuple[str, ...] = ()
    revocations: bytes = b""


class Broker(Protocol):
    """A broker process. It speaks MQTT over mutual TLS and nothing else."""

    async def start(self) -> None:
        """Start the broker and return once it accepts connections.

        A broker that a killed controller left behind in the same folder is stopped
        first.

        Raises:
            RejectedError: ``BROKER_MISSING``, ``PORT_TAKEN`` or ``BROKER_FAILED``
                with the end of its log.
        """
        ...

    async def stop(self) -> None:
        """End the broker; one that does not run is no error."""
        ...

    async def restart(self) -> None:
        """Start it anew, so that it reads its certificate again.

        Its sessions come back by themselves. One that does not run is no error.
        """
        ...

    async def admit(self, admission: Admission) -> None:
        """Let exactly those in ``admission`` use the broker, beside the controller.

        It is in force for new sessions when this returns, and live sessions of those
        who are admitted no longer can neither publish nor hear: NATS ends them,
        mosquitto leaves them to ``cut``. Sessions of those that keep their permissions
        are not disturbed. Before ``start`` it is only remembered.

        Raises:
            RejectedError: ``BROKER_FAILED``, the broker did not take it up; what holds
                then is not known, and the same may be asked for again.
        """
        ...

    async def cut(self, clients: Sequence[str]) -> None:
        """End the live sessions of these MQTT client ids; one that is over is none.

        Whoever is still admitted comes back. Wills are not to be counted on: mosquitto
        publishes those that their senders may still publish, NATS none.

        Raises:
            QuarterdeckError: The broker cannot be reached.
        """
        ...

    def endpoint(self, certificate: Path, key: Path) -> Endpoint:
        """Return how the holder of ``certificate`` reaches this broker."""
        ...

    async def ended(self) -> QuarterdeckError:
        """Return why, when the broker has ended without being asked to."""
        ...
