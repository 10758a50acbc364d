"""Few statements, however many refusals; none lost that matters."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_agent.identity.key import DeviceKey
from quarterdeck_agent.refusals import (
    ALLOWANCE,
    KINDS,
    REFILL_S,
    REPEAT_S,
    Ledger,
    Refusals,
    Standing,
)
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import opened
from quarterdeck_shared.refusal import MAX_REFUSAL_BYTES, PAYLOAD_TYPE, Refusal
from quarterdeck_shared.topics import UP_REFUSAL, up
from tests.support.brokers import MemoryYard, until
from tests.support.device_keys import device_key
from tests.support.releases import NOW, ManualClock

DIGESTS = [f"{number:064x}" for number in range(200)]


def refusal(code: Code = Code.WRONG_DEVICE, refused: str | None = None) -> Refusal:
    return Refusal(
        device="cam-1", boot=7, number=0, at=NOW, code=code, refused=refused, sequence=1
    )


def tell(ledger: Ledger, now_s: float) -> list[Refusal]:
    """Tell all that is due at ``now_s``."""
    told = []
    while (due := ledger.due(now_s)) is not None:
        ledger.told(due, now_s)
        told.append(due)
    return told


def test_a_refusal_is_told_at_once_and_once() -> None:
    ledger = Ledger()
    ledger.note(refusal())

    assert [it.repeats for it in tell(ledger, 0)] == [0]
    assert tell(ledger, 1000) == []


def test_repeats_are_counted_and_told_a_minute_later() -> None:
    ledger = Ledger()
    ledger.note(refusal())
    tell(ledger, 0)
    for _ in range(500):
        ledger.note(refusal())

    assert tell(ledger, REPEAT_S - 1) == []
    assert ledger.wait_s(REPEAT_S - 1) == pytest.approx(1)
    assert [it.repeats for it in tell(ledger, REPEAT_S)] == [499]


def test_what_comes_while_a_statement_is_on_its_way_is_counted_for_the_next() -> None:
    ledger = Ledger()
    ledger.note(refusal())
    due = ledger.due(0)
    assert due is not None
    ledger.note(refusal())

    ledger.told(due, 0)

    assert [it.repeats for it in tell(ledger, REPEAT_S)] == [0]


def test_other_bytes_and_other_codes_are_other_refusals() -> None:
    ledger = Ledger()
    ledger.note(refusal(refused=DIGESTS[0]))
    ledger.note(refusal(refused=DIGESTS[1]))
    ledger.note(refusal(Code.WRONG_CLASS, DIGESTS[1]))

    assert len(tell(ledger, 0)) == 3


def test_a_flood_of_different_refusals_has_one_allowance() -> None:
    ledger = Ledger()
    for digest in DIGESTS:
        ledger.note(refusal(refused=digest))

    first = tell(ledger, 0)
    later = tell(ledger, 10 * REFILL_S)

    assert len(first) == ALLOWANCE
    assert len(later) == 10
    assert ledger.wait_s(10 * REFILL_S) == pytest.approx(REFILL_S)


def test_of_too_many_the_newest_are_kept() -> None:
    ledger = Ledger()
    for digest in DIGESTS:
        ledger.note(refusal(refused=digest))

    told = [it for minute in range(100) for it in tell(ledger, minute * 60.0)]

    assert [it.refused for it in told] == DIGESTS[-KINDS:]


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 30)), max_size=300))
def test_every_refusal_is_told_in_the_end_and_never_too_often(
    happened: list[tuple[int, float]],
) -> None:
    ledger, now, told = Ledger(), 0.0, []
    for kind, pause in happened:
        now += pause
        ledger.note(refusal(refused=DIGESTS[kind]))
        told += [(now, it) for it in tell(ledger, now)]
    for _ in range(10):
        now += REPEAT_S
        told += [(now, it) for it in tell(ledger, now)]

    assert sum(1 + it.repeats for _, it in told) == len(happened)
    for digest in DIGESTS[:6]:
        times = [at for at, it in told if it.refused == digest]
        assert all(b - a >= REPEAT_S for a, b in pairwise(times))


# -- signed and published --------------------------------------------------------------


@dataclass
class Site:
    yard: MemoryYard
    key: DeviceKey | None
    told: list[Message] = field(default_factory=list)

    def statements(self) -> list[Refusal]:
        envelopes = [
            opened(it.payload, PAYLOAD_TYPE, limit=MAX_REFUSAL_BYTES)
            for it in self.told
        ]
        return [Refusal.decode(it.payload) for it in envelopes]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    yard = MemoryYard()
    bus = yard.bus("controller")
    await bus.start()
    await bus.wait_connected(5)
    site = Site(yard, device_key())
    await bus.subscribe(up("cam-1", UP_REFUSAL), site.told.append)
    yield site
    await yard.end()


async def device(site: Site, clock: ManualClock | None = None) -> Refusals:
    bus = site.yard.bus("cam-1")
    await bus.start()
    await bus.wait_connected(5)
    return Refusals(
        bus,
        "cam-1",
        7,
        clock=clock or ManualClock(),
        key=lambda: site.key,
        standing=lambda: Standing(12, DIGESTS[3]),
    )


async def test_a_statement_is_signed_and_says_what_runs(site: Site) -> None:
    refusals = await device(site)
    running = asyncio.create_task(refusals.run())

    refusals.note(Code.ASSIGNMENT_REPLAYED, "sequence 3", refused=DIGESTS[9])
    await until(lambda: site.told, "a statement")

    running.cancel()
    envelope = opened(site.told[0].payload, PAYLOAD_TYPE, limit=MAX_REFUSAL_BYTES)
    assert site.key is not None
    signature = envelope.signatures[site.key.key_id]
    public = load_der_public_key(site.key.public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, envelope.signed, ec.ECDSA(SHA256()))
    (told,) = site.statements()
    assert (told.code, told.attack) == (Code.ASSIGNMENT_REPLAYED, Attack.REPLAY)
    assert (told.sequence, told.active) == (12, DIGESTS[3])
    assert (told.number, told.refused) == (1, DIGESTS[9])


async def test_what_was_refused_offline_is_told_when_the_broker_is_back(
    site: Site,
) -> None:
    refusals = await device(site)
    await site.yard.go_down()
    running = asyncio.create_task(refusals.run())
    refusals.note(Code.WRONG_CLASS, "one")
    refusals.note(Code.WRONG_DEVICE, "two")
    refusals.note(Code.WRONG_DEVICE, "three")

    await site.yard.come_up()
    await until(lambda: len(site.told) == 2, "both statements")

    running.cancel()
    assert [it.detail for it in site.statements()] == ["one", "three"]
    assert [it.repeats for it in site.statements()] == [0, 1]


async def test_the_newest_statement_is_retained(site: Site) -> None:
    refusals = await device(site)
    running = asyncio.create_task(refusals.run())
    refusals.note(Code.WRONG_CLASS, "one")
    refusals.note(Code.WRONG_DEVICE, "two")
    await until(lambda: len(site.told) == 2, "both statements")
    running.cancel()

    late = Site(site.yard, None)
    bus = site.yard.bus("late")
    await bus.start()
    await bus.subscribe(up("cam-1", UP_REFUSAL), late.told.append)
    await until(lambda: late.told, "the retained statement")

    assert [it.detail for it in late.statements()] == ["two"]


async def test_without_a_key_nothing_is_told_and_nothing_ends(site: Site) -> None:
    refusals = await device(site)
    key, site.key = site.key, None
    running = asyncio.create_task(refusals.run())
    refusals.note(Code.WRONG_CLASS, "one")
    await until(lambda: refusals._keyless, "an attempt")

    site.key = key
    refusals.note(Code.WRONG_DEVICE, "two")
    await until(lambda: len(site.told) == 2, "both statements")

    running.cancel()
    assert not refusals._keyless
    assert refusals.count == 2


async def test_a_long_detail_is_cut(site: Site) -> None:
    refusals = await device(site)

    refusals.note(Code.MALFORMED, "x" * 10_000)

    assert refusals.newest is not None
    assert len(refusals.newest.detail) == 300
