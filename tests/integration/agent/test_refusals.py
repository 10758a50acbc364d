"""A whole agent over a real broker tells, signed, what it refused and noticed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from quarterdeck_controller.fleet.refusals import verified
from quarterdeck_controller.release.standing import revoke_release
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared import topics
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.index import digest
from quarterdeck_shared.refusal import Refusal
from tests.support.brokers import until
from tests.support.site import CLASS, PATIENCE_S, Site, running_site, status

DEVICE = "cam-1"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(tmp_path) as site:
        yield site


def public_key(bundle: Path) -> bytes:
    """Return the key with which the device must sign."""
    data = (bundle / "state" / "identity.pem").read_bytes()
    (leaf, *_) = x509.load_pem_x509_certificates(data)
    form = PublicFormat.SubjectPublicKeyInfo
    return leaf.public_key().public_bytes(Encoding.DER, form)


async def test_what_an_agent_refuses_and_notices_is_told_in_signed_statements(
    site: Site,
) -> None:
    told: list[bytes] = []
    await site.bus.subscribe(
        topics.up_any(topics.UP_REFUSAL), lambda message: told.append(message.payload)
    )
    bundle = await site.enrol(DEVICE)
    settings = bundle / "agent.toml"
    settings.write_text(settings.read_text() + "\n[refresh]\nspread_s = 0\n")
    site.start(bundle)
    release = site.release(1)
    await site.assign(DEVICE, release, 1)
    await site.until_outcome(DEVICE, 1, "committed")
    key = public_key(bundle)

    def refusals() -> list[Refusal]:
        keys = {digest(key): key}
        return [verified(one, DEVICE, keys) for one in told]

    def heard(code: Code) -> bool:
        return any(it.code is code for it in refusals())

    junk = b'{"payload": "junk"}'
    topic = topics.down(DEVICE, topics.DOWN_ASSIGNMENT)
    await site.bus.publish(topic, junk, retain=True)
    await until(lambda: heard(Code.MALFORMED), "the first", timeout_s=PATIENCE_S)
    clock = SystemClock()
    revoke_release(site.home, release.id, "it was poisoned", clock)
    newest = Repository(site.home, clock).timestamp()
    await site.bus.publish(topics.METADATA_TIMESTAMP, newest, retain=True)
    await until(lambda: heard(Code.TARGET_REVOKED), "the second", timeout_s=PATIENCE_S)
    await site.assign(DEVICE, release, 2)
    await until(lambda: heard(Code.TARGET_UNKNOWN), "the third", timeout_s=PATIENCE_S)

    first, second, third = refusals()
    artifact = release.variants[CLASS].artifact
    assert first.refused == digest(junk)
    assert (second.attack, third.attack) == (None, Attack.ARBITRARY_SOFTWARE)
    assert {it.active for it in refusals()} == {artifact}
    assert third.sequence == 1
    assert [it.number for it in refusals()] == [1, 2, 3]
    shown = status(bundle)
    assert shown["serving"]
    assert isinstance(shown["refusals"], int)
    assert shown["refusals"] >= 3  # what was turned down is judged again after news
