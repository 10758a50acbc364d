"""A whole controller shuts devices out of both real brokers, whoever is in."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio

from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.revocation import make_room, revoke
from quarterdeck_controller.store.records import Assigned, Presence, Runs
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import Probation, Target
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint, Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.reported import SessionState
from tests.support.brokers import until
from tests.support.enrolling import CLASS, Fleet, running_fleet
from tests.support.identities import device_identity, record_identity

pytestmark = pytest.mark.asyncio(loop_scope="module")
KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
CLOCK = SystemClock()
STAYS_OUT_S = 1.0


@pytest_asyncio.fixture(params=KINDS, scope="module", loop_scope="module")
async def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    async with running_fleet(folder, request.param) as fleet:
        yield fleet


@dataclass
class Session:
    """A device as the broker sees it: a certificate and a client id."""

    device: str
    bus: MqttBus
    client: str
    generation: int
    lost: int = 0

    async def comes(self, fleet: Fleet) -> None:
        """Connect once it is admitted, and say so, as an agent does."""
        self.bus.on_disconnected(self._lose)
        await until(lambda: self._is_admitted(fleet), "its admission", timeout_s=20)
        await self.bus.start()
        await self.bus.wait_connected(20)
        birth = SessionState(
            online=True,
            boot=secrets.randbits(52),
            connection=1,
            client=self.client,
            generation=self.generation,
        )
        topic = topics.up(self.device, topics.UP_STATE)
        async with asyncio.timeout(20):
            while not is_online(fleet, self):
                await self.bus.publish(topic, birth.encode(), retain=True)
                await asyncio.sleep(0.2)

    def _is_admitted(self, fleet: Fleet) -> bool:
        spelled = (
            f"serialNumber={self.generation},CN={self.device},",
            f":{self.device}:{self.generation}",
        )
        texts = [it.read_text() for it in fleet.home.broker.glob("*.*") if it.is_file()]
        return any(name in text for name in spelled for text in texts)

    def _lose(self) -> None:
        self.lost += 1


def certified(fleet: Fleet, device: str, generation: int = 1) -> Session:
    """Return a device that has a certificate and has not come yet."""
    authority = Authority.open(fleet.home.authority)
    identity = device_identity(authority, device, CLASS, generation=generation)
    with fleet.records() as records:
        if records.devices.get(device) is None:
            enrol(records, device, CLASS, now=CLOCK.now())
        record_identity(records, identity)
    files = (fleet.folder / f"{device}-{generation}.{it}" for it in ("pem", "key"))
    certificate, key = files
    identity.write(certificate, key)
    client, broker = secrets.token_hex(16), fleet.home.settings().broker
    root = fleet.home.authority / "root.pem"
    endpoint = Endpoint(broker.host, broker.port, root, certificate, key)
    bus = MqttBus(endpoint, client, clock=CLOCK, rng=random.Random(1))
    return Session(device, bus, client, generation)


def presence(fleet: Fleet, device: str) -> Presence | None:
    with Store.open(fleet.home.database) as store, store.read() as records:
        return records.presence.get(device)


def is_online(fleet: Fleet, session: Session) -> bool:
    it = presence(fleet, session.device)
    return it is not None and it.online and it.client == session.client


def assign(fleet: Fleet, device: str) -> None:
    now = CLOCK.now()
    assigned = Assigned(
        device=device,
        device_class=CLASS,
        sequence=1,
        runs=Runs("m@1", Target(path="classes/cam/m-1.idx", length=1, sha256="0" * 64)),
        issued=now,
        expires=now + timedelta(days=14),
        envelope=b"an assignment",
        reason="",
        probation=Probation(),
    )
    with fleet.records() as records:
        records.assignments.add([assigned])


def assignment(fleet: Fleet, device: str) -> Assigned:
    with Store.open(fleet.home.database) as store, store.read() as records:
        found = records.assignments.get(device)
    assert found is not None
    return found


async def test_a_revoked_device_is_out_within_seconds_and_nobody_else(
    fleet: Fleet,
) -> None:
    lost, other = certified(fleet, "lost"), certified(fleet, "other")
    for session in (lost, other):
        await session.comes(fleet)
    heard: list[bytes] = []

    def hear(message: Message) -> None:
        heard.append(message.payload)

    await lost.bus.subscribe(topics.down("lost", topics.DOWN_ASSIGNMENT), hear)
    assign(fleet, "lost")
    await until(lambda: heard == [b"an assignment"], "the assignment", timeout_s=20)

    with fleet.records() as records:
        revoke(records, "lost", "stolen", now=CLOCK.now())

    await until(lambda: lost.lost > 0, "the end of its session", timeout_s=20)
    await asyncio.sleep(STAYS_OUT_S)
    assert not lost.bus.connected
    assert other.bus.connected
    assert other.lost == 0
    await until(
        lambda: assignment(fleet, "lost").published, "the empty message", timeout_s=20
    )
    assert assignment(fleet, "lost").withdrawn
    told = presence(fleet, "lost")
    assert told is not None
    assert not told.online
    for session in (lost, other):
        await session.bus.close()


async def test_a_device_that_was_revoked_while_nobody_served_never_gets_in(
    fleet: Fleet,
) -> None:
    session = certified(fleet, "away")
    await fleet.stop()
    with fleet.records() as records:
        revoke(records, "away", "stolen", now=CLOCK.now())

    await fleet.start()
    await session.bus.start()

    await asyncio.sleep(STAYS_OUT_S)
    assert not session.bus.connected
    await session.bus.close()


async def test_new_hardware_comes_in_and_the_old_one_goes_out(fleet: Fleet) -> None:
    old = certified(fleet, "till")
    await old.comes(fleet)

    with fleet.records() as records:
        make_room(records, "till", now=CLOCK.now())
    await until(lambda: old.lost > 0, "the end of the old session", timeout_s=20)
    new = certified(fleet, "till", generation=2)
    await new.comes(fleet)

    await asyncio.sleep(STAYS_OUT_S)
    assert not old.bus.connected
    assert new.bus.connected
    for session in (old, new):
        await session.bus.close()


async def test_a_certificate_that_was_replaced_lets_nobody_in_any_more(
    fleet: Fleet,
) -> None:
    old, new = certified(fleet, "cam"), certified(fleet, "cam", generation=2)
    await old.comes(fleet)
    await old.bus.close()

    await new.comes(fleet)

    await until(lambda: live(fleet, "cam") == [2], "the end of the old", timeout_s=20)
    await asyncio.sleep(STAYS_OUT_S)
    thief = certified_again(old)
    await thief.start()
    await asyncio.sleep(STAYS_OUT_S)
    assert not thief.connected
    assert new.bus.connected
    for bus in (thief, new.bus):
        await bus.close()


def live(fleet: Fleet, device: str) -> list[int]:
    with Store.open(fleet.home.database) as store, store.read() as records:
        every = records.certificates.live(CLOCK.now())
    return [it.generation for it in every if it.device == device]


def certified_again(session: Session) -> MqttBus:
    """Return another session with the same certificate."""
    return MqttBus(
        session.bus._endpoint,
        secrets.token_hex(16),
        clock=CLOCK,
        rng=random.Random(2),
    )
