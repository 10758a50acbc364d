"""Real brokers with real certificates, and the in-memory one, for tests."""

import asyncio
import random
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from quarterdeck_controller.broker.embedded import EmbeddedBroker
from quarterdeck_controller.broker.mosquitto import MosquittoBroker
from quarterdeck_controller.broker.nats import NatsBroker
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.identity.authority import Authority, Identity
from quarterdeck_controller.identity.revocation_list import Revoked
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Bus, Endpoint
from quarterdeck_shared.clock import SystemClock
from tests.support import identities

CLASS = "gateway"


def device_identity(
    authority: Authority,
    device: str,
    device_class: str = CLASS,
    *,
    generation: int = 1,
    days: float = 30,
) -> Identity:
    """Return an identity as a device has it after it was enrolled."""
    return identities.device_identity(
        authority, device, device_class, generation=generation, days=days
    )


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(
    condition: Callable[[], object], what: str, *, timeout_s: float = 10
) -> None:
    """Return once ``condition`` holds, or fail the test naming ``what``."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never saw: {what}") from None


class Yard(Protocol):
    """A broker under test and a way to get sessions on it."""

    def bus(self, name: str) -> Bus:
        """Return a session that is not started, as ``controller`` or a device."""
        ...

    async def cut(self, name: str) -> None:
        """Break the connection of ``name`` without a goodbye."""
        ...

    async def go_down(self) -> None:
        """Stop the broker."""
        ...

    async def come_up(self) -> None:
        """Start the broker again at the same address."""
        ...

    async def end(self) -> None:
        """Close every session and stop the broker."""
        ...


@dataclass
class MemoryYard:
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    buses: list[MemoryBus] = field(default_factory=list)

    def bus(self, name: str) -> MemoryBus:
        bus = MemoryBus(self.broker, name)
        self.buses.append(bus)
        return bus

    async def cut(self, name: str) -> None:
        self.broker.disconnect(name)

    async def go_down(self) -> None:
        self.broker.stop()

    async def come_up(self) -> None:
        self.broker.start()

    async def end(self) -> None:
        for bus in self.buses:
            await bus.close()


@dataclass
class RealYard:
    """A real broker over mutual TLS, in a folder of its own."""

    folder: Path
    authority: Authority
    broker: EmbeddedBroker
    buses: dict[str, MqttBus] = field(default_factory=dict)

    def bus(self, name: str) -> MqttBus:
        if name == "controller":
            identity = self.authority.issue_controller()
        else:
            identity = device_identity(self.authority, name)
        return self.bus_as(name, identity)

    def bus_as(self, name: str, identity: Identity) -> MqttBus:
        clock = SystemClock()
        bus = MqttBus(
            self.endpoint(name, identity),
            secrets.token_hex(16),
            clock=clock,
            rng=random.Random(1),
        )
        self.buses[name] = bus
        return bus

    def endpoint(self, name: str, identity: Identity) -> Endpoint:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        identity.write(certificate, key)
        return self.broker.endpoint(certificate, key)

    async def cut(self, name: str) -> None:
        session = self.buses[name]._session
        assert session is not None
        session.abort()

    async def go_down(self) -> None:
        await self.broker.stop()

    async def come_up(self) -> None:
        await self.broker.start()

    async def end(self) -> None:
        for bus in self.buses.values():
            await bus.close()
        await self.broker.stop()


async def real_yard(kind: str, folder: Path, devices: tuple[str, ...]) -> RealYard:
    """Return a running ``nats`` or ``mosquitto`` that knows ``devices``."""
    admission = Admission(tuple(Grant(it, CLASS) for it in devices))
    return await yard_of(kind, folder, admission)


async def yard_of(
    kind: str,
    folder: Path,
    admission: Admission,
    *,
    revoked: tuple[Revoked, ...] | None = None,
) -> RealYard:
    """Return a running broker that admits those in ``admission``.

    With ``revoked`` it is given a list of revocations from the beginning.
    """
    authority = Authority.create(folder / "authority", "test", SystemClock())
    certificate, key = folder / "broker.pem", folder / "broker.key"
    authority.issue_server(["127.0.0.1", "localhost"]).write(certificate, key)
    ours = folder / "controller.pem", folder / "controller.key"
    authority.issue_controller().write(*ours)
    make = NatsBroker if kind == "nats" else MosquittoBroker
    broker = make(
        folder / "broker",
        "127.0.0.1",
        free_port(),
        ca=authority.root_file,
        certificate=certificate,
        key=key,
        clock=SystemClock(),
    )
    if revoked is not None:
        revocations = authority.revocation_list(revoked)
        admission = replace(admission, revocations=revocations)
    await broker.admit(admission)
    await broker.start()
    return RealYard(folder, authority, broker)
