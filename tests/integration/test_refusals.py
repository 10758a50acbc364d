"""What devices refused, heard by the controller: kept when proven, else counted."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_agent.identity.key import FileKey
from quarterdeck_controller.cli.refused import refusals_json, summed
from quarterdeck_controller.fleet.refusals import (
    LINES,
    WAITING_PER_DEVICE,
    Heard,
    RefusalListener,
    verified,
)
from quarterdeck_controller.store.records import Certificate, Device, StoredRefusal
from quarterdeck_controller.store.refusals import KEPT
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import pae, sealed
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.refusal import PAYLOAD_TYPE, Refusal
from quarterdeck_shared.topics import UP_REFUSAL, up
from tests.support.brokers import MemoryYard, until
from tests.support.device_keys import device_key
from tests.support.operator import Operator
from tests.support.releases import NOW, ManualClock

KEY, OTHER = device_key(), device_key()


def refusal(number: int = 1, **changes: object) -> Refusal:
    fields = {
        "device": "cam-1",
        "boot": 7,
        "number": number,
        "at": NOW,
        "code": Code.METADATA_ROLLBACK,
        "attack": Attack.ROLLBACK,
        "sequence": 3,
        "detail": "timestamp version 1 offered, 2 accepted before",
    }
    return Refusal.model_validate(fields | changes)


def signed(it: Refusal, *keys: FileKey, kind: str = PAYLOAD_TYPE) -> bytes:
    payload = it.encode()
    signatures = {key.key_id: key.sign(pae(kind, payload)) for key in keys}
    return sealed(kind, payload, signatures)


def certificate(device: str, generation: int, key: FileKey) -> Certificate:
    return Certificate(
        serial=f"{device}-{generation}",
        device=device,
        generation=generation,
        public_key=key.public,
        not_before=NOW,
        not_after=NOW + timedelta(days=30),
        certificate=b"",
    )


@dataclass
class Desk:
    store: Store
    listener: RefusalListener
    yard: MemoryYard

    def keep(self, *envelopes: bytes, device: str = "cam-1") -> int:
        return self.listener.keep([Heard(device, one, NOW) for one in envelopes])

    def kept(self, device: str = "cam-1") -> tuple[StoredRefusal, ...]:
        with self.store.read() as records:
            return records.refusals.of(device)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    yard = MemoryYard()
    bus = yard.bus("controller")
    await bus.start()
    with Store.open(tmp_path / "fleet.db") as store:
        with store.write() as records:
            for device, key in (("cam-1", KEY), ("cam-2", OTHER)):
                records.devices.add(Device(device, "cam", (), NOW))
                records.certificates.add([certificate(device, 1, key)])
        yield Desk(store, RefusalListener(bus, store, ManualClock()), yard)
    await yard.end()


async def test_a_signed_statement_is_kept(desk: Desk) -> None:
    assert desk.keep(signed(refusal(), KEY)) == 1

    (stored,) = desk.kept()
    assert stored.refusal == refusal()
    assert not desk.listener.unproven


async def test_a_statement_that_comes_twice_is_kept_once(desk: Desk) -> None:
    envelope = signed(refusal(), KEY)

    assert desk.keep(envelope, envelope) == 1
    assert desk.keep(envelope) == 0


async def test_what_the_device_did_not_sign_is_counted_and_logged_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    forged = [
        signed(refusal(), OTHER),  # another device's key
        signed(refusal(), device_key()),
        signed(refusal(device="cam-2"), KEY),  # about another device
        signed(refusal(), KEY, kind="application/other"),
        signed(refusal(), KEY)[:-20],
        b"",
        b"x" * 9000,
    ]
    with caplog.at_level(logging.WARNING):
        assert desk.keep(*forged, *forged) == 0

    assert desk.kept() == ()
    assert desk.kept("cam-2") == ()
    assert desk.listener.unproven["cam-1"] == 2 * len(forged)
    assert len(caplog.records) == 1


async def test_a_device_that_signs_refusals_without_end_does_not_fill_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    others = signed(refusal(device="cam-2"), OTHER)

    with caplog.at_level(logging.WARNING):
        for number in range(1, 100):
            desk.keep(signed(refusal(number), KEY))
        desk.keep(others, device="cam-2")

    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "device=cam-1" in line]) == LINES
    assert len([line for line in lines if "device=cam-2" in line]) == 1
    assert len(desk.kept()) == 99


async def test_a_changed_payload_under_the_devices_signature_is_not_believed(
    desk: Desk,
) -> None:
    honest = signed(refusal(), KEY)
    other = signed(refusal(2, code=Code.MALFORMED), OTHER)
    mixed = other[: other.index(b'"signatures"')]
    mixed += honest[honest.index(b'"signatures"') :]

    assert desk.keep(mixed) == 0


async def test_a_key_of_an_older_certificate_counts_until_it_is_revoked(
    desk: Desk,
) -> None:
    newer = device_key()
    with desk.store.write() as records:
        records.certificates.add([certificate("cam-1", 2, newer)])

    assert desk.keep(signed(refusal(1), KEY), signed(refusal(2), newer)) == 2
    with desk.store.write() as records:
        records.certificates.revoke(["cam-1"], "stolen", NOW)
    assert desk.keep(signed(refusal(3), KEY), signed(refusal(4), newer)) == 0


async def test_of_a_device_that_nobody_enrolled_nothing_is_kept(desk: Desk) -> None:
    envelope = signed(refusal(device="ghost"), KEY)

    assert desk.keep(envelope, device="ghost") == 0


async def test_only_the_newest_statements_of_a_device_are_kept(desk: Desk) -> None:
    for number in range(0, KEPT + 100, 50):
        at = NOW + timedelta(minutes=number)
        batch = [
            Heard("cam-1", signed(refusal(it), KEY), at + timedelta(seconds=it))
            for it in range(number, number + 50)
        ]
        desk.listener.keep(batch)
    desk.keep(signed(refusal(device="cam-2"), OTHER), device="cam-2")

    kept = desk.kept()

    assert len(kept) == KEPT
    assert kept[0].refusal.number == KEPT + 99
    assert len(desk.kept("cam-2")) == 1


async def test_statements_are_heard_over_the_bus_and_a_flood_is_bounded(
    desk: Desk,
) -> None:
    flood = Message(up("cam-2", UP_REFUSAL), b"rubbish")
    for _ in range(1000):
        desk.listener.hear(flood)
    assert desk.listener.dropped == 1000 - WAITING_PER_DEVICE
    running = asyncio.create_task(desk.listener.run())
    bus = desk.yard.bus("cam-1")
    await bus.start()
    await bus.wait_connected(5)

    await bus.publish(up("cam-1", UP_REFUSAL), signed(refusal(), KEY), retain=True)
    await until(desk.kept, "the statement")
    await bus.publish(up("cam-1", UP_REFUSAL), b"", retain=True)
    await bus.publish(up("cam-1", UP_REFUSAL), signed(refusal(2), KEY), retain=True)
    await until(lambda: len(desk.kept()) == 2, "the second statement")

    running.cancel()
    assert not desk.listener._waiting


@pytest.fixture(scope="module")
def honest() -> bytes:
    return signed(refusal(), KEY)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 1 << 16))
def test_changed_statements_are_refused_or_say_the_same(
    honest: bytes, noise: bytes, where: int
) -> None:
    at = where % (len(honest) + 1)
    changed = honest[:at] + noise + honest[at + len(noise) :]
    try:
        told = verified(changed, "cam-1", {KEY.key_id: KEY.public})
    except RejectedError:
        return

    assert told == refusal()


def test_an_operator_sees_what_a_device_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    operator = Operator(tmp_path, monkeypatch, capsys)
    operator.enrols("cam-1")
    assert operator.types("device", "show", "cam-1", "--json").value["refusals"] == []
    with Store.open(operator.home.database) as store, store.write() as records:
        records.refusals.add([stored(1, 0, repeats=41), stored(2, 1)])

    shown = operator.types("device", "show", "cam-1").out
    (told,) = operator.types("device", "show", "cam-1", "--json").value["refusals"]

    for word in ("metadata_rollback", "rollback", "43", "timestamp version 1 offered"):
        assert word in shown
    assert Code.METADATA_ROLLBACK.remedy in shown
    assert (told["code"], told["attack"]) == ("metadata_rollback", "rollback")
    assert told["times"] == 43


def stored(number: int, minutes: int, **changes: object) -> StoredRefusal:
    at = NOW + timedelta(minutes=minutes)
    return StoredRefusal(refusal(number, at=at, **changes), at)


def test_refusals_are_added_up_by_code_with_the_most_recent_first() -> None:
    other = {"code": Code.MALFORMED, "attack": None}
    newest_first = [
        stored(4, 9, repeats=5),
        stored(3, 6, **other),
        stored(2, 3, repeats=2, detail="older"),
        stored(1, 1),
    ]

    first, second = summed(newest_first)

    assert (first.newest.code, first.times) == (Code.METADATA_ROLLBACK, 10)
    assert first.first == NOW + timedelta(minutes=1)
    assert (second.newest.code, second.times) == (Code.MALFORMED, 1)
    assert refusals_json(newest_first)[0]["attack"] == "rollback"
