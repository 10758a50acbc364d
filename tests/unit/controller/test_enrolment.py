"""A token lets one machine become one device, once, and nobody else anything."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from quarterdeck_agent.identity.token import asked_with
from quarterdeck_controller.identity.enrolment import (
    PER_NONCE,
    Asked,
    EnrolmentServer,
    check_token,
)
from quarterdeck_controller.identity.offer import digest
from quarterdeck_controller.identity.revocation import make_room, revoke
from quarterdeck_controller.identity.tokens import Invitation, invite
from quarterdeck_controller.store.records import Token
from quarterdeck_shared import topics
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply, EnrolRequest
from quarterdeck_shared.errors import RejectedError
from tests.support.identities import new_key, request
from tests.support.registry import CLASS, Key, Registry
from tests.support.releases import NOW


@pytest_asyncio.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    registry = await Registry.open(tmp_path)
    yield registry
    await registry.close()


def leaf(reply: CertificateReply) -> x509.Certificate:
    assert reply.chain is not None, reply
    return x509.load_pem_x509_certificate(reply.chain)


def audit(registry: Registry) -> list[tuple[str, str]]:
    with registry.store.read() as records:
        return [(it.subject, it.outcome) for it in records.audit.newest(20)]


async def test_a_machine_with_a_token_gets_a_certificate_for_its_own_key(
    registry: Registry,
) -> None:
    key = new_key()
    (invitation,) = registry.enter("cam-1")

    certificate = leaf(await registry.enrol(invitation, key))

    assert certificate.public_key() == key.public_key()
    assert [it.value for it in certificate.subject] == [CLASS, "cam-1", "1"]
    (kept,) = registry.certificates("cam-1")
    assert kept.serial == f"{certificate.serial_number:x}"
    assert ("device:cam-1", "done") in audit(registry)


async def test_the_broker_admits_the_device_before_the_answer_leaves(
    registry: Registry,
) -> None:
    (invitation,) = registry.enter("cam-1")

    await registry.enrol(invitation, new_key())

    assert registry.admitted == [1]


async def test_an_answer_is_kept_back_while_the_broker_cannot_admit(
    registry: Registry,
) -> None:
    (invitation,) = registry.enter("cam-1")
    key = new_key()
    registry.broker_is_away.append(True)

    with pytest.raises(KeyError):  # no answer was heard
        await registry.enrol(invitation, key)

    registry.broker_is_away.clear()
    reply = await registry.enrol(invitation, key)
    assert leaf(reply).public_key() == key.public_key()
    assert len(registry.certificates("cam-1")) == 1


async def test_a_lost_answer_is_given_again_to_the_same_key(registry: Registry) -> None:
    (invitation,) = registry.enter("cam-1")
    key = new_key()
    first = leaf(await registry.enrol(invitation, key))

    again = leaf(await registry.enrol(invitation, key))

    assert again == first
    assert len(registry.certificates("cam-1")) == 1


async def test_a_used_token_with_another_key_is_refused_and_told_of(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    (invitation,) = registry.enter("cam-1")
    await registry.enrol(invitation, new_key())

    with caplog.at_level(logging.WARNING):
        reply = await registry.enrol(invitation, new_key())

    assert reply.code is Code.TOKEN_INVALID
    assert "two machines have it" in caplog.text
    assert ("device:cam-1", "refused") in audit(registry)


async def test_a_token_is_over_once_its_certificate_was_seen_in_use(
    registry: Registry,
) -> None:
    (invitation,) = registry.enter("cam-1")
    key = new_key()
    await registry.enrol(invitation, key)
    registry.comes("cam-1", 1)

    reply = await registry.enrol(invitation, key)

    assert reply.chain is None
    assert reply.code is Code.TOKEN_INVALID


async def _expired(registry: Registry, invitation: Invitation) -> CertificateReply:
    registry.clock.forward(days=7, seconds=1)
    return await registry.enrol(invitation, new_key())


async def _withdrawn(registry: Registry, invitation: Invitation) -> CertificateReply:
    with registry.store.write() as records:
        records.tokens.withdraw(["cam-1"], registry.clock.now())
    return await registry.enrol(invitation, new_key())


async def _newer(registry: Registry, invitation: Invitation) -> CertificateReply:
    registry.invite("cam-1")
    return await registry.enrol(invitation, new_key())


async def _unknown(registry: Registry, invitation: Invitation) -> CertificateReply:
    return await registry.enrol(invitation, new_key(), token="x" * 32)


async def _other_device(registry: Registry, invitation: Invitation) -> CertificateReply:
    registry.enter("cam-2")
    return await registry.enrol(invitation, new_key(), device="cam-2")


async def _other_claim(registry: Registry, invitation: Invitation) -> CertificateReply:
    (other,) = registry.enter("cam-2")
    asked = EnrolRequest(device="cam-1", csr=request("cam-1", new_key()))
    return await registry.ask(other.claim, asked_with(invitation.token, asked))


async def _no_claim(registry: Registry, invitation: Invitation) -> CertificateReply:
    asked = EnrolRequest(device="cam-1", csr=request("cam-1", new_key()))
    return await registry.ask("claim-0", asked_with(invitation.token, asked))


@pytest.mark.parametrize(
    "attempt",
    [
        _expired,
        _withdrawn,
        _newer,
        _unknown,
        _other_device,
        _other_claim,
        _no_claim,
    ],
)
async def test_every_token_that_does_not_fit_is_refused_with_the_same_words(
    registry: Registry, attempt: object
) -> None:
    (invitation,) = registry.enter("cam-1")
    assert callable(attempt)

    reply = await attempt(registry, invitation)

    assert reply == CertificateReply(
        code=Code.TOKEN_INVALID, detail="the token does not let this machine in"
    )
    assert registry.certificates("cam-1") == ()


TOKEN = Token(
    digest="0" * 64,
    device="cam-1",
    claim="claim-1",
    created_at=NOW,
    expires_at=NOW + timedelta(days=7),
)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (None, "unknown"),
        (replace(TOKEN, claim="claim-2"), "belongs to claim-2, this is claim-1"),
        (replace(TOKEN, withdrawn_at=NOW), "withdrawn"),
        (replace(TOKEN, expires_at=NOW), "expired"),
        (replace(TOKEN, device="cam-2"), "of cam-2, cam-1 asks"),
    ],
)
def test_each_fault_of_a_token_is_found_by_itself(
    token: Token | None, why: str
) -> None:
    asked = EnrolRequest(device="cam-1", csr=b"")

    with pytest.raises(RejectedError, match=why) as refusal:
        check_token(asked, "claim-1", token, NOW)

    assert refusal.value.code is Code.TOKEN_INVALID
    assert check_token(asked, "claim-1", TOKEN, NOW) == TOKEN


@pytest.mark.parametrize(
    ("csr", "code"),
    [
        (request("cam-2", new_key()), Code.REQUEST_UNPROVEN),
        (b"rubbish", Code.MALFORMED),
    ],
)
async def test_a_request_that_proves_nothing_leaves_the_token_unused(
    registry: Registry, csr: bytes, code: Code
) -> None:
    (invitation,) = registry.enter("cam-1")

    refused = await registry.enrol(invitation, new_key(), csr=csr)

    assert refused.code is code
    assert (await registry.enrol(invitation, new_key())).code is None


async def test_two_devices_never_share_a_key(registry: Registry) -> None:
    key = new_key()
    one, two = registry.enter("cam-1", "cam-2")
    await registry.enrol(one, key)

    refused = await registry.enrol(two, key)

    assert refused.code is Code.REQUEST_UNPROVEN
    assert "cam-1" not in refused.detail


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b"{" * 70_000])
async def test_a_message_that_makes_no_sense_is_answered_with_a_code(
    registry: Registry, payload: bytes
) -> None:
    (invitation,) = registry.enter("cam-1")

    reply = await registry.ask(invitation.claim, payload)

    assert reply.code in {Code.MALFORMED, Code.TOO_LARGE}


async def test_a_revoked_device_cannot_be_invited_and_its_token_is_over(
    registry: Registry,
) -> None:
    (invitation,) = registry.enter("cam-1")
    with registry.store.write() as records:
        revoke(records, "cam-1", "stolen", now=registry.clock.now())

    refused = await registry.enrol(invitation, new_key())

    assert refused.code is Code.TOKEN_INVALID
    with pytest.raises(RejectedError, match="stolen") as no:
        registry.invite("cam-1")
    assert no.value.code is Code.DEVICE_REVOKED


async def test_new_hardware_goes_on_counting_and_shuts_the_old_out(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    with registry.store.write() as records:
        now = registry.clock.now()
        device = make_room(records, "cam-1", now=now)
        (invitation,) = invite(records, registry.authority, [device], now=now)
    assert registry.live("cam-1") == []

    certificate = leaf(await registry.enrol(invitation, new_key()))

    assert [it.value for it in certificate.subject] == [CLASS, "cam-1", "2"]
    assert registry.live("cam-1") == [2]


async def test_a_device_that_enrols_again_is_let_in_as_before_until_it_came(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    invitation = registry.invite("cam-1")

    await registry.enrol(invitation, new_key())

    assert registry.live("cam-1") == [1, 2]
    registry.comes("cam-1", 2)
    assert registry.live("cam-1") == [2]


async def test_the_seal_key_is_that_of_the_machine_that_enrolled_last(
    registry: Registry,
) -> None:
    (invitation,) = registry.enter("cam-1")

    await registry.enrol(invitation, new_key(), seal_key=bytes(range(32)))

    with registry.store.read() as records:
        device = records.devices.get("cam-1")
    assert device is not None
    assert device.seal_key == bytes(range(32))


async def test_what_is_assigned_is_signed_anew_for_another_seal_key(
    registry: Registry,
) -> None:
    def due() -> list[str]:
        with registry.store.read() as records:
            soon = records.assignments.due(registry.clock.now(), "", 10)
        return [it.device for it in soon]

    await registry.enrolled("cam-1")
    registry.assign("cam-1")
    registry.clock.forward(seconds=1)
    assert due() == []

    again = registry.invite("cam-1")
    await registry.enrol(again, new_key(), seal_key=bytes(32))

    registry.clock.forward(seconds=1)
    assert due() == ["cam-1"]


async def test_the_database_holds_no_token(registry: Registry) -> None:
    (invitation,) = registry.enter("cam-1")
    await registry.enrol(invitation, new_key())

    files = registry.authority.root_file.parent.parent.glob("db*")
    held = b"".join(it.read_bytes() for it in files)

    assert digest(invitation.token).encode() in held
    assert invitation.token.encode() not in held
    assert invitation.token not in repr(invitation)


async def test_a_claim_is_open_as_long_as_an_answer_may_be_missing(
    registry: Registry,
) -> None:
    def claims() -> tuple[str, ...]:
        with registry.store.read() as records:
            return records.claims.live(registry.clock.now())

    one, two = registry.enter("cam-1", "cam-2")
    assert claims() == (one.claim,)

    await registry.enrol(one, new_key())
    await registry.enrol(two, new_key())
    registry.comes("cam-1", 1)
    assert claims() == (one.claim,)

    registry.comes("cam-2", 1)
    assert claims() == ()
    with registry.store.read() as records:
        assert [it.name for it in records.claims.ended(registry.clock.now())] == [
            one.claim
        ]


async def test_many_requests_of_one_asker_wait_as_one(registry: Registry) -> None:
    topic = topics.enrol_request("claim-1", "nonce")

    for _ in range(5):
        registry.enrolling.hear(Message(topic, b"x"))

    assert registry.enrolling.dropped == 5 - PER_NONCE


async def test_a_retained_request_and_a_strange_topic_are_not_heard(
    registry: Registry,
) -> None:
    topic = topics.enrol_request("claim-1", "nonce")

    registry.enrolling.hear(Message(topic, b"x", retained=True))
    registry.enrolling.hear(Message("qd/1/enrol/claim-1/request", b"x"))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await registry.enrolling._desk.take()


async def test_requests_that_a_broker_was_told_to_keep_are_taken_out_of_it(
    registry: Registry,
) -> None:
    broker = MemoryBroker()
    left: list[Message] = []
    line, bus = MemoryBus(broker, "claim"), MemoryBus(broker, "controller")
    for it in (line, bus):
        await it.start()
        await it.wait_connected(5)
    for number in range(5):
        topic = topics.enrol_request("claim-1", f"n{number}")
        await line.publish(topic, b"x", retain=True)
    server = EnrolmentServer(
        bus,
        registry.store,
        registry.authority,
        registry.clock,
        days=30,
        admit=lambda: asyncio.sleep(0),
    )

    serving = asyncio.create_task(server.run())
    await asyncio.sleep(0.2)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)

    await line.subscribe(topics.enrol_any(), left.append)
    await asyncio.sleep(0.1)
    assert left == []


async def test_a_guesser_fills_neither_log_nor_audit(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    (invitation,) = registry.enter("cam-1")

    with caplog.at_level(logging.WARNING):
        for number in range(50):
            await registry.enrol(invitation, new_key(), token=f"{number:032}")

    assert caplog.text.count("enrolment_refused") == 1
    assert len([it for it in audit(registry) if it[1] == "refused"]) == 1


def wanting(invitation: Invitation, key: Key, nonce: str) -> Asked:
    device = invitation.device
    asked = EnrolRequest(device=device, csr=request(device, key))
    return Asked(invitation.claim, nonce, asked_with(invitation.token, asked))


async def test_of_two_machines_that_ask_at_once_with_one_token_one_is_let_in(
    registry: Registry,
) -> None:
    (invitation,) = registry.enter("cam-1")
    key = new_key()
    batch = [
        wanting(invitation, key, "one"),
        wanting(invitation, key, "one-again"),
        wanting(invitation, new_key(), "other"),
    ]

    await registry.enrolling.answer(batch)

    one, again, other = (
        registry.heard[topics.enrol_reply(invitation.claim, it.nonce)] for it in batch
    )
    assert leaf(one) == leaf(again)
    assert other.code is Code.TOKEN_INVALID
    assert registry.live("cam-1") == [1]


async def test_of_two_devices_that_ask_at_once_with_one_key_one_is_let_in(
    registry: Registry,
) -> None:
    one, two = registry.enter("cam-1", "cam-2")
    key = new_key()

    await registry.enrolling.answer([wanting(one, key, "1"), wanting(two, key, "2")])

    assert registry.heard[topics.enrol_reply(one.claim, "1")].code is None
    refused = registry.heard[topics.enrol_reply(one.claim, "2")]
    assert refused.code is Code.REQUEST_UNPROVEN


async def test_many_machines_cost_few_transactions(registry: Registry) -> None:
    invitations = registry.enter(*(f"cam-{it}" for it in range(200)))
    batch = [wanting(it, new_key(), it.device) for it in invitations]

    await registry.enrolling.answer(batch)

    assert registry.admitted == [200]
    assert len(registry.heard) == 200


@pytest.mark.parametrize("valid", [timedelta(seconds=1), timedelta(days=400)])
async def test_an_invitation_is_for_a_sensible_time(
    registry: Registry, valid: timedelta
) -> None:
    with pytest.raises(RejectedError) as refusal:
        registry.enter("cam-1", valid=valid)

    assert refusal.value.code is Code.NOT_ALLOWED
