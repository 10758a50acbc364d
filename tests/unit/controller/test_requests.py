"""Of a certificate request nothing is believed but the key that signed it."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_controller.identity.requests import prove
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import MAX_CSR_BYTES
from quarterdeck_shared.errors import RejectedError
from tests.support.identities import new_key, request

OF_A_TPM = b"""\
-----BEGIN CERTIFICATE REQUEST-----
MIHLMHICAQAwEDEOMAwGA1UEAwwFY2FtLTEwWTATBgcqhkjOPQIBBggqhkjOPQMB
BwNCAATNsr1hMM9hTZE5pAADVZWXti+rGilvV1UIYthZmyyrVNmaV9NELSKFKK1N
Yh5Xf4QE7/fVAOeReavgtwmwvQjNoAAwDAYIKoZIzj0EAwIFAANHADBEAiBIbxQI
7ygVAIbU5cjwE22OxCR4HiISPixjZUJUrBzgmgIgdvHClQkpeWknCTcKf0WRaeJV
LEnhth73lR19xax/tW4=
-----END CERTIFICATE REQUEST-----
"""
"""Made with Debian's tpm2-openssl 1.1.1-1 and swtpm, by ``openssl req -new``."""

KEY = new_key()
GOOD = request("cam-1", KEY)


def der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.strip().splitlines()[1:-1]))


def pem(data: bytes) -> bytes:
    body = base64.encodebytes(data)
    edges = (
        b"-----BEGIN CERTIFICATE REQUEST-----\n",
        b"-----END CERTIFICATE REQUEST-----\n",
    )
    return edges[0] + body + edges[1]


def refusal(csr: bytes, device: str = "cam-1") -> RejectedError:
    with pytest.raises(RejectedError) as refused:
        prove(csr, device)
    return refused.value


def test_a_request_proves_its_key() -> None:
    proven = prove(GOOD, "cam-1")

    assert proven.device == "cam-1"
    assert proven.key == KEY.public_key()


def test_a_request_of_a_tpm_is_taken_although_a_null_stands_in_it() -> None:
    with pytest.raises(ValueError, match="ExtraData"):
        x509.load_pem_x509_csr(OF_A_TPM)

    proven = prove(OF_A_TPM, "cam-1")

    assert der(OF_A_TPM).find(proven.public_key) > 0


def test_a_repaired_request_still_has_to_be_signed_by_its_key() -> None:
    changed = bytearray(der(OF_A_TPM))
    changed[changed.find(b"cam-1")] ^= 1

    assert refusal(pem(bytes(changed)), "bam-1").code in {
        Code.REQUEST_UNPROVEN,
        Code.MALFORMED,
    }


def test_a_name_that_was_changed_after_signing_is_refused() -> None:
    changed = der(GOOD).replace(b"cam-1", b"cam-2")

    refused = refusal(pem(changed), "cam-2")

    assert refused.code is Code.REQUEST_UNPROVEN
    assert "signature" in refused.detail


def test_a_request_for_another_device_is_refused() -> None:
    refused = refusal(GOOD, "cam-2")

    assert refused.code is Code.REQUEST_UNPROVEN
    assert "cam-1" in refused.detail
    assert "cam-2" in refused.detail


def test_a_second_common_name_is_refused() -> None:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, it) for it in ("cam-1", "broker")]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))

    refused = refusal(builder.sign(KEY, SHA256()).public_bytes(Encoding.PEM))

    assert refused.code is Code.REQUEST_UNPROVEN


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "secp256k1", "RSA", "Ed25519"],
)
def test_a_key_on_another_curve_is_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cam-1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    csr = builder.sign(key, algorithm).public_bytes(Encoding.PEM)

    assert refusal(csr).code is Code.REQUEST_UNPROVEN


@pytest.mark.parametrize(
    "csr",
    [
        b"",
        b"hello",
        GOOD + GOOD,
        GOOD.replace(b"REQUEST", b"REVOKE"),
        GOOD[:-40],
        pem(b""),
        pem(b"\x30\x80"),
        pem(b"\x30\x84\xff\xff\xff\xff"),
        pem(b"\x30\x82\xff\xff" + bytes(64)),
        pem(der(GOOD) + b"\0"),
        GOOD.replace(b"\n", b"\n!", 2),
    ],
)
def test_what_is_no_request_is_malformed(csr: bytes) -> None:
    assert refusal(csr).code is Code.MALFORMED


def test_a_request_that_is_too_large_is_not_parsed() -> None:
    assert refusal(GOOD + b"\n" * MAX_CSR_BYTES).code is Code.TOO_LARGE


@given(st.data())
def test_no_changed_byte_makes_a_request_that_proves_anything_else(
    data: st.DataObject,
) -> None:
    changed = bytearray(data.draw(st.sampled_from([der(GOOD), der(OF_A_TPM)])))
    before = bytes(changed)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(
        st.integers(1, 255)
    )

    try:
        proven = prove(pem(bytes(changed)), "cam-1")
    except RejectedError:
        return
    assert proven.public_key == prove(pem(before), "cam-1").public_key


@given(st.binary(max_size=200))
def test_rubbish_raises_nothing_but_a_refusal(data: bytes) -> None:
    for csr in (data, pem(data)):
        with pytest.raises(RejectedError):
            prove(csr, "cam-1")
