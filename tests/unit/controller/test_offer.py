"""A token that never travels, and what nobody can change of what was asked with it."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quarterdeck_agent.identity.token import asked_with
from quarterdeck_controller.identity.offer import digest, read_offer
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import pae, sealed
from quarterdeck_shared.enrolment import ENROL_TYPE, EnrolRequest, token_seed
from quarterdeck_shared.errors import RejectedError

TOKEN = "W5oVJq0d2kqvG8v0m6t8yq3Jv0sZc1fT"
REQUEST = EnrolRequest(device="cam-1", csr=b"a request", seal_key=b"s" * 32)


def refused(payload: bytes) -> Code:
    with pytest.raises(RejectedError) as caught:
        read_offer(payload)
    return caught.value.code


def changed(**fields: object) -> bytes:
    """Return the machine's envelope as somebody on the way would like it."""
    envelope: dict[str, Any] = json.loads(asked_with(TOKEN, REQUEST))
    payload = REQUEST.model_copy(update=fields).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    return json.dumps(envelope).encode()


def test_what_was_asked_is_read_with_the_digest_of_its_token() -> None:
    offer = read_offer(asked_with(TOKEN, REQUEST))

    assert offer.request == REQUEST
    assert offer.token == digest(TOKEN)


def test_the_token_is_not_in_what_travels() -> None:
    envelope = asked_with(TOKEN, REQUEST)
    payload = base64.b64decode(json.loads(envelope)["payload"])

    assert TOKEN.encode() not in envelope + payload
    assert token_seed(TOKEN).hex().encode() not in envelope + payload


@pytest.mark.parametrize(
    "fields", [{"csr": b"mine"}, {"seal_key": b"m" * 32}, {"device": "cam-2"}]
)
def test_a_broker_cannot_change_what_is_asked_with_a_token(
    fields: dict[str, object],
) -> None:
    assert refused(changed(**fields)) is Code.TOKEN_INVALID


def test_what_is_kept_of_a_token_does_not_enrol() -> None:
    kept = digest(TOKEN)
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(kept))
    public = key.public_key().public_bytes_raw().hex()
    payload = REQUEST.encode()
    signature = key.sign(pae(ENROL_TYPE, payload))

    assert read_offer(sealed(ENROL_TYPE, payload, {public: signature})).token != kept


def test_the_public_half_with_another_keys_signature_is_refused() -> None:
    mine = Ed25519PrivateKey.generate()
    theirs = Ed25519PrivateKey.from_private_bytes(token_seed(TOKEN)).public_key()
    payload = REQUEST.encode()
    signature = mine.sign(pae(ENROL_TYPE, payload))
    envelope = sealed(ENROL_TYPE, payload, {theirs.public_bytes_raw().hex(): signature})

    assert refused(envelope) is Code.TOKEN_INVALID


@pytest.mark.parametrize("keyid", ["", "ab", "A" * 64, "g" * 64, "a" * 66])
def test_a_key_id_that_is_no_key_is_malformed(keyid: str) -> None:
    payload = REQUEST.encode()

    assert refused(sealed(ENROL_TYPE, payload, {keyid: b"s" * 64})) is Code.MALFORMED


def test_two_signatures_are_one_too_many() -> None:
    envelope = json.loads(asked_with(TOKEN, REQUEST))
    envelope["signatures"].append({"keyid": "b" * 64, "sig": "YQ=="})

    assert refused(json.dumps(envelope).encode()) is Code.MALFORMED


def test_another_statement_of_the_same_key_is_none_of_these() -> None:
    key = Ed25519PrivateKey.from_private_bytes(token_seed(TOKEN))
    keyid = key.public_key().public_bytes_raw().hex()
    other = "application/vnd.quarterdeck.refusal.v1+json"
    signature = key.sign(pae(other, REQUEST.encode()))

    assert refused(sealed(other, REQUEST.encode(), {keyid: signature})) is (
        Code.MALFORMED
    )
    relabelled = sealed(ENROL_TYPE, REQUEST.encode(), {keyid: signature})
    assert refused(relabelled) is Code.TOKEN_INVALID


def test_an_oversized_envelope_is_refused_before_it_is_opened() -> None:
    assert refused(b"{" + b" " * (16 * 1024)) is Code.TOO_LARGE
