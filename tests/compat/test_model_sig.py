"""``model.sig`` has the form that OpenSSF's tool reads; the payload is frozen."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import CryptoSigner

from quarterdeck_controller.release.model_sig import public_pem, sign_files
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import pae
from quarterdeck_shared.errors import RejectedError

SIGNER = CryptoSigner(generate_private_key(SECP256R1()))
DIGESTS = {"model.onnx": "a" * 64, "golden.npz": "b" * 64}

PAYLOAD = (
    '{"_type":"https://in-toto.io/Statement/v1","predicate":{"resources":['
    f'{{"algorithm":"sha256","digest":"{"b" * 64}","name":"golden.npz"}},'
    f'{{"algorithm":"sha256","digest":"{"a" * 64}","name":"model.onnx"}}],'
    '"serialization":{"allow_symlinks":false,"hash_type":"sha256","ignore_paths":[],'
    '"method":"files"}},"predicateType":"https://model_signing/signature/v1.0",'
    '"subject":[{"digest":{"sha256":'
    '"0393ab96b890b91266b63c748c51063fc8d8b802d25382b203bb302bb8864bde"},'
    '"name":"model"}]}'
)
"""What the tool's version 1.1.1 accepted; never regenerated."""


def test_the_payload_is_the_one_that_the_tool_accepted() -> None:
    bundle = json.loads(sign_files("model", DIGESTS, SIGNER))

    assert base64.b64decode(bundle["dsseEnvelope"]["payload"]).decode() == PAYLOAD


def test_the_bundle_is_one_of_sigstore() -> None:
    bundle = json.loads(sign_files("model", DIGESTS, SIGNER))

    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"]["tlogEntries"] == []
    envelope = bundle["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert [one["keyid"] for one in envelope["signatures"]] == [""]


def test_the_signature_covers_type_and_payload() -> None:
    bundle = json.loads(sign_files("model", DIGESTS, SIGNER))
    public = load_pem_public_key(public_pem(SIGNER.public_key))
    assert isinstance(public, EllipticCurvePublicKey)
    envelope = bundle["dsseEnvelope"]
    signature = base64.b64decode(envelope["signatures"][0]["sig"])

    signed = pae(envelope["payloadType"], base64.b64decode(envelope["payload"]))

    public.verify(signature, signed, ECDSA(hashes.SHA256()))


def test_a_key_that_the_tool_does_not_know_is_refused() -> None:
    with pytest.raises(RejectedError, match="P-256") as refusal:
        sign_files("model", DIGESTS, CryptoSigner.generate_ed25519())

    assert refusal.value.code is Code.KEY_UNUSABLE
