"""A device gets its next certificate for a new key, and is never locked out by it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from quarterdeck_controller.identity.renewal import Asked
from quarterdeck_controller.identity.revocation import revoke
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply
from tests.support.identities import new_key, request
from tests.support.registry import CLASS, Registry


@pytest_asyncio.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    registry = await Registry.open(tmp_path)
    yield registry
    await registry.close()


def generation(reply: CertificateReply) -> list[str]:
    assert reply.chain is not None, reply
    leaf = x509.load_pem_x509_certificate(reply.chain)
    return [str(it.value) for it in leaf.subject]


async def test_a_device_gets_the_next_generation_for_a_new_key(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)

    reply = await registry.renew("cam-1", request("cam-1", new_key()))

    assert generation(reply) == [CLASS, "cam-1", "2"]
    assert registry.admitted == [1, 2]


async def test_the_one_before_counts_until_the_new_one_was_seen(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)

    await registry.renew("cam-1", request("cam-1", new_key()))

    assert registry.live("cam-1") == [1, 2]
    registry.comes("cam-1", 1)
    assert registry.live("cam-1") == [1, 2]
    registry.comes("cam-1", 2)
    assert registry.live("cam-1") == [2]


async def test_a_lost_answer_is_given_again(registry: Registry) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)
    csr = request("cam-1", new_key())
    first = await registry.renew("cam-1", csr)

    again = await registry.renew("cam-1", csr)

    assert again.chain == first.chain
    assert again.id != first.id


async def test_certificates_whose_answer_was_lost_do_not_pile_up(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)

    for _ in range(4):
        await registry.renew("cam-1", request("cam-1", new_key()))
        registry.clock.forward(hours=1)

    assert registry.live("cam-1") == [1, 5]


async def test_a_device_that_never_tells_which_one_it_uses_has_few_that_count(
    registry: Registry,
) -> None:
    (invitation,) = registry.enter("cam-1")
    await registry.enrol(invitation, new_key())
    registry.comes("cam-1", 0)

    for _ in range(12):
        registry.clock.forward(hours=1)
        await registry.renew("cam-1", request("cam-1", new_key()))

    assert registry.live("cam-1") == [*range(6, 14)]


async def test_a_certificate_that_just_came_into_use_is_not_taken_for_a_lost_one(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)
    await registry.renew("cam-1", request("cam-1", new_key()))
    registry.clock.forward(hours=1)
    registry.comes("cam-1", 2, settled=False)

    await registry.renew("cam-1", request("cam-1", new_key()))

    assert registry.live("cam-1") == [2, 3]


async def test_the_key_in_use_is_not_certified_again(registry: Registry) -> None:
    key = await registry.enrolled("cam-1")
    registry.clock.forward(days=20)

    reply = await registry.renew("cam-1", request("cam-1", key))

    assert reply.code is Code.REQUEST_UNPROVEN


async def test_an_old_key_is_not_certified_again(registry: Registry) -> None:
    key = await registry.enrolled("cam-1")
    registry.clock.forward(days=20)
    await registry.renew("cam-1", request("cam-1", new_key()))
    registry.comes("cam-1", 2)
    registry.clock.forward(days=20)

    reply = await registry.renew("cam-1", request("cam-1", key))

    assert reply.code is Code.REQUEST_UNPROVEN


async def test_a_device_cannot_ask_for_another(registry: Registry) -> None:
    await registry.enrolled("cam-1")
    await registry.enrolled("cam-2")
    registry.clock.forward(days=20)

    reply = await registry.renew("cam-1", request("cam-2", new_key()))

    assert reply.code is Code.REQUEST_UNPROVEN
    assert registry.live("cam-2") == [1]


async def test_a_device_that_asks_without_end_gets_few(registry: Registry) -> None:
    await registry.enrolled("cam-1")

    reply = await registry.renew("cam-1", request("cam-1", new_key()))

    assert reply.code is Code.NOT_ALLOWED
    assert registry.live("cam-1") == [1]


async def test_a_revoked_device_gets_none(registry: Registry) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=20)
    with registry.store.write() as records:
        revoke(records, "cam-1", "stolen", now=registry.clock.now())

    reply = await registry.renew("cam-1", request("cam-1", new_key()))

    assert reply.code is Code.DEVICE_REVOKED


async def test_a_device_whose_certificates_are_over_has_to_enrol(
    registry: Registry,
) -> None:
    await registry.enrolled("cam-1")
    registry.clock.forward(days=31)

    reply = await registry.renew("cam-1", request("cam-1", new_key()))

    assert reply.code is Code.NOT_ENROLLED


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff" * 100])
async def test_what_makes_no_sense_is_not_answered(
    registry: Registry, payload: bytes
) -> None:
    await registry.enrolled("cam-1")
    before = dict(registry.heard)

    await registry.renewing.answer([Asked("cam-1", payload), Asked("nobody", payload)])

    assert registry.heard == before


async def test_a_device_that_nobody_knows_is_not_answered(registry: Registry) -> None:
    with pytest.raises(KeyError):
        await registry.renew("nobody", request("nobody", new_key()))
