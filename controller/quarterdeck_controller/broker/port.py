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

    async def grant(self, devices: Sequence[Grant]) -> None:
        """Let exactly ``devices`` use the broker, beside the controller.

        Sessions of devices that keep their permissions are not disturbed. Before
        ``start`` it is only remembered.
        """
        ...

    def endpoint(self, certificate: Path, key: Path) -> Endpoint:
        """Return how the holder of ``certificate`` reaches this broker."""
        ...

    async def ended(self) -> QuarterdeckError:
        """Return why, when the broker has ended without being asked to."""
        ...
