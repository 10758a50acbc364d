"""Whom the broker admits is what the store says, and it is told once for many."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.identity.admission import (
    LIST_FILE,
    Allowed,
    Doorkeeper,
    GuardedBus,
    Revocations,
    admission,
    ended,
    list_ends,
)
from quarterdeck_controller.identity.revocation import make_room, revoke
from quarterdeck_controller.identity.revocation_list import Revoked
from quarterdeck_controller.store.identity import Live
from quarterdeck_controller.store.records import Certificate, Claim
from quarterdeck_shared import topics
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Endpoint, Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from tests.support.identities import new_key, request
from tests.support.registry import CLASS, Registry
from tests.support.releases import NOW


class Door:
    """A broker that remembers whom it was told to admit and whose session to end."""

    def __init__(self) -> None:
        self.admitted: list[Admission] = []
        self.cut_clients: list[str] = []
        self.failing = False
        self.cuts_that_fail = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def restart(self) -> None: ...

    async def admit(self, admission: Admission) -> None:
        await asyncio.sleep(0.01)
        if self.failing:
            raise TransientError(Code.TIMED_OUT, "the broker does not answer")
        self.admitted.append(admission)

    async def cut(self, clients: Sequence[str]) -> None:
        if self.cuts_that_fail:
            self.cuts_that_fail -= 1
            raise TransientError(Code.TIMED_OUT, "the broker does not answer")
        self.cut_clients += clients

    def endpoint(self, certificate: Path, key: Path) -> Endpoint:
        raise NotImplementedError

    async def ended(self) -> QuarterdeckError:
        raise NotImplementedError


@pytest_asyncio.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    registry = await Registry.open(tmp_path)
    yield registry
    await registry.close()


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def keeper(registry: Registry, door: Door, tmp_path: Path) -> Doorkeeper:
    revocations = Revocations(registry.authority, tmp_path, registry.clock)
    return Doorkeeper(
        registry.store, door, revocations, registry.clock, allowed=Allowed()
    )


PLAIN = Certificate(
    serial="1f",
    device="cam-1",
    generation=1,
    public_key=b"",
    not_before=NOW,
    not_after=NOW + timedelta(days=30),
    certificate=b"",
)


def test_each_device_is_granted_the_generations_that_count() -> None:
    live = [Live("a", "cam", 3), Live("a", "cam", 4), Live("b", "gateway", 1)]

    it = admission(live, ["claim-1"], b"list")

    assert it == Admission(
        (Grant("a", "cam", (3, 4)), Grant("b", "gateway", (1,))), ("claim-1",), b"list"
    )


def test_a_list_names_what_was_taken_back_retired_or_over() -> None:
    later = NOW + timedelta(days=1)
    claim = Claim("claim-1", NOW, NOW + timedelta(days=7), "3d")

    named = ended(
        [
            replace(PLAIN, serial="1f", revoked_at=later),
            replace(PLAIN, serial="2e", retired_at=NOW),
            replace(PLAIN, serial="4c", retired_at=NOW, revoked_at=later),
        ],
        [claim],
    )

    assert named == (
        Revoked("1f", later),
        Revoked("2e", NOW, replaced=True),
        Revoked("4c", later),
        Revoked("3d", NOW),
    )


async def test_a_device_is_admitted_from_its_first_certificate_to_its_last(
    registry: Registry, keeper: Doorkeeper, door: Door
) -> None:
    registry.enter("cam-2")
    await registry.enrolled("cam-1")

    await keeper.admit()
    assert door.admitted[-1].devices == (Grant("cam-1", CLASS, (1,)),)
    assert len(door.admitted[-1].claims) == 1
    assert keeper.classes == {"cam-1": CLASS, "cam-2": CLASS}

    registry.clock.forward(days=31)
    await keeper.admit()
    last = door.admitted[-1]
    assert (last.devices, last.claims) == ((), ())


async def test_many_who_wait_are_served_by_few_changes(
    registry: Registry, keeper: Doorkeeper, door: Door
) -> None:
    await registry.enrolled("cam-1")

    await asyncio.gather(*(keeper.admit() for _ in range(100)))

    assert len(door.admitted) <= 2


async def test_what_fails_is_told_to_each_who_waits(
    keeper: Doorkeeper, door: Door
) -> None:
    door.failing = True

    done = await asyncio.gather(
        *(keeper.admit() for _ in range(3)), return_exceptions=True
    )

    assert all(isinstance(it, TransientError) for it in done)
    door.failing = False
    await keeper.admit()
    assert len(door.admitted) == 1


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.02)


def online(registry: Registry, device: str) -> bool:
    with registry.store.read() as records:
        return records.presence.all()[device].online


async def test_a_revoked_device_is_shut_out_first_and_cut_then(
    registry: Registry, keeper: Doorkeeper, door: Door
) -> None:
    await registry.enrolled("cam-1")
    await registry.enrolled("cam-2")
    registry.comes("cam-2", 1, client="other")
    running = asyncio.create_task(keeper.run())
    await until(lambda: door.admitted)
    assert keeper.allowed("cam-1")

    with registry.store.write() as records:
        revoke(records, "cam-1", "stolen", now=registry.clock.now())

    await until(lambda: not online(registry, "cam-1"))
    running.cancel()
    assert door.cut_clients == ["secret"]
    assert door.admitted[-1].devices == (Grant("cam-2", CLASS, (1,)),)
    assert not keeper.allowed("cam-1")
    assert keeper.allowed("cam-2")
    assert keeper.classes == {"cam-2": CLASS}
    assert online(registry, "cam-2")


async def test_a_session_that_cannot_be_cut_is_tried_again(
    registry: Registry, keeper: Doorkeeper, door: Door
) -> None:
    await registry.enrolled("cam-1")
    with registry.store.write() as records:
        revoke(records, "cam-1", "stolen", now=registry.clock.now())
    door.cuts_that_fail = 2

    running = asyncio.create_task(keeper.run())

    await until(lambda: not online(registry, "cam-1"))
    running.cancel()
    assert door.cut_clients == ["secret"]


async def test_the_session_of_old_hardware_is_cut_when_it_is_replaced(
    registry: Registry, keeper: Doorkeeper, door: Door
) -> None:
    await registry.enrolled("cam-1")
    running = asyncio.create_task(keeper.run())
    await until(lambda: door.admitted)

    with registry.store.write() as records:
        make_room(records, "cam-1", now=registry.clock.now())

    await until(lambda: door.cut_clients)
    running.cancel()
    assert door.cut_clients == ["secret"]
    assert keeper.allowed("cam-1")


async def test_a_certificate_seen_in_use_retires_the_one_before(
    registry: Registry, keeper: Doorkeeper, door: Door
) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)
    await registry.renew("cam-1", request("cam-1", new_key()))
    running = asyncio.create_task(keeper.run())
    await until(lambda: door.admitted)
    assert door.admitted[-1].devices == (Grant("cam-1", CLASS, (1, 2)),)

    with registry.store.write() as records:
        (session,) = records.presence.some(["cam-1"]).values()
        records.presence.put([replace(session, generation=2)])

    await until(lambda: door.admitted[-1].devices == (Grant("cam-1", CLASS, (2,)),))
    running.cancel()
    assert door.cut_clients == []


async def test_the_list_is_signed_when_it_changed_and_once_a_day(
    registry: Registry, keeper: Doorkeeper, door: Door, tmp_path: Path
) -> None:
    await keeper.admit()
    await keeper.admit()
    assert door.admitted[0].revocations == door.admitted[1].revocations

    registry.clock.forward(hours=25)
    await keeper.admit()
    assert door.admitted[2].revocations != door.admitted[1].revocations
    assert (tmp_path / LIST_FILE).read_bytes() == door.admitted[2].revocations
    assert list_ends(tmp_path) == registry.clock.now() + timedelta(days=30)

    await registry.enrolled("cam-1")
    with registry.store.write() as records:
        revoke(records, "cam-1", "stolen", now=registry.clock.now())
    await keeper.admit()
    named = x509.load_pem_x509_crl(door.admitted[3].revocations)
    (lost,) = registry.certificates("cam-1")
    assert named.get_revoked_certificate_by_serial_number(int(lost.serial, 16))


async def test_a_list_that_cannot_be_written_stops_nobody(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    revocations = Revocations(registry.authority, tmp_path / "gone", registry.clock)

    pem = revocations.list(())

    assert b"BEGIN X509 CRL" in pem
    assert "revocations_unwritten" in caplog.text


def test_no_list_ends_never(tmp_path: Path) -> None:
    assert list_ends(tmp_path) is None
    (tmp_path / LIST_FILE).write_bytes(b"rubbish")
    assert list_ends(tmp_path) is None


async def test_nothing_is_heard_of_a_revoked_device() -> None:
    bus, allowed = MemoryBus(MemoryBroker(), "controller"), Allowed(["cam-1"])
    heard: list[str] = []

    def hear(message: Message) -> None:
        heard.append(message.topic)

    await bus.start()
    await bus.wait_connected(5)
    await GuardedBus(bus, allowed).subscribe(topics.up_any(topics.UP_STATE), hear)

    for device in ("cam-1", "cam-2"):
        await bus.publish(topics.up(device, topics.UP_STATE), b"x")

    await until(lambda: heard)
    assert heard == [topics.up("cam-2", topics.UP_STATE)]
    await bus.close()


async def test_a_device_that_is_revoked_twice_keeps_its_first_reason(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    first: datetime = registry.clock.now()
    for why in ("stolen", "found"):
        with registry.store.write() as records:
            revoke(records, "cam-1", why, now=registry.clock.now())
        registry.clock.forward(days=1)

    with registry.store.read() as records:
        device = records.devices.get("cam-1")
    assert device is not None
    assert (device.revoked_at, device.revoked_why) == (first, "stolen")


@pytest.mark.parametrize("why", ["", "  ", "x" * 201])
async def test_a_revocation_has_a_reason(registry: Registry, why: str) -> None:
    registry.enter("cam-1")

    with (
        registry.store.write() as records,
        pytest.raises(RejectedError) as refusal,
    ):
        revoke(records, "cam-1", why, now=registry.clock.now())

    assert refusal.value.code is Code.NOT_ALLOWED


async def test_certificates_long_over_are_forgotten_but_the_newest(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)
    await registry.renew("cam-1", request("cam-1", new_key()))
    registry.clock.forward(days=500)

    with registry.store.write() as records:
        gone = records.certificates.forget(registry.clock.now() - timedelta(days=400))

    assert gone == 1
    assert [it.generation for it in registry.certificates("cam-1")] == [2]
