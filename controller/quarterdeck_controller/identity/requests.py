"""Certificate requests: bytes in, a proven request out, or a refusal (pure).

Of a request only its public key is ever used, after the request has shown that its
sender holds the private key; the authority writes every other word of a certificate
itself. Checks, in the order of PROTOCOL.md section 10.2: 1 size and form, 2 the key is
on P-256, 3 the signature, 4 the common name.

OpenSSL's provider for TPMs, as of version 1.1.1, writes a NULL after
ecdsa-with-SHA256, which RFC 5758 section 3.2 forbids and strict parsers refuse. The
NULL lies outside what the signature covers, so leaving it out changes nothing that was
signed.
"""

import base64
import binascii
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import MAX_CSR_BYTES
from quarterdeck_shared.errors import RejectedError

_BEGIN = b"-----BEGIN CERTIFICATE REQUEST-----"
_END = b"-----END CERTIFICATE REQUEST-----"
_SEQUENCE = 0x30
_LONG = 0x80
"""From here on, a length's first octet tells how many octets follow."""

_MAX_OCTETS = 2
_ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
_RIGHT = b"\x30\x0a" + _ECDSA_SHA256
_WITH_NULL = b"\x30\x0c" + _ECDSA_SHA256 + b"\x05\x00"


@dataclass(frozen=True, slots=True)
class ProvenRequest:
    """A request whose sender has shown that it holds the key. Made by ``prove`` only.

    Attributes:
        device: Its common name, which is the device that was expected.
        public_key: SubjectPublicKeyInfo, DER: what certificates are compared by.
    """

    device: str
    key: ec.EllipticCurvePublicKey
    public_key: bytes


def prove(csr: bytes, device: str) -> ProvenRequest:
    """Return what ``csr`` proves, when it is a request that ``device`` may make.

    Raises:
        RejectedError: ``TOO_LARGE``, ``MALFORMED``, or ``REQUEST_UNPROVEN``.
    """
    request = _parse(csr)  # 1
    key = _key(request)  # 2
    if not isinstance(request.signature_hash_algorithm, SHA256 | SHA384 | SHA512):
        raise _unproven("it is not signed with SHA-2")
    if not request.is_signature_valid:  # 3
        raise _unproven("its signature does not fit its key")
    names = [
        it.value for it in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    if names != [device]:  # 4
        raise _unproven(f"it is for {str(names)[:80]}, not for {device}")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ProvenRequest(device, key, der)


def _parse(csr: bytes) -> x509.CertificateSigningRequest:
    if len(csr) > MAX_CSR_BYTES:
        raise RejectedError(
            Code.TOO_LARGE,
            f"a certificate request of {len(csr)} bytes, at most {MAX_CSR_BYTES}",
        )
    try:
        request = x509.load_der_x509_csr(_repaired(_der(csr)))
        # Parsed lazily: what is wrong inside shows only now.
        _ = request.subject, request.signature_hash_algorithm, request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise RejectedError(
            Code.MALFORMED, f"the certificate request cannot be read: {error}"[:200]
        ) from error
    return request


def _der(pem: bytes) -> bytes:
    text = pem.strip().replace(b"NEW CERTIFICATE REQUEST", b"CERTIFICATE REQUEST")
    if not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise ValueError("it is not a PEM certificate request alone")
    body = text[len(_BEGIN) : -len(_END)]
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"its base64 is broken: {error}") from error


def _key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _unproven("its key is not on P-256")
    if not isinstance(key.curve, ec.SECP256R1):
        raise _unproven(f"its key is on {key.curve.name}, not on P-256")
    return key


def _repaired(der: bytes) -> bytes:
    """Return ``der`` without a NULL after ecdsa-with-SHA256; otherwise as it is."""
    start, end = _value(der, 0)
    if end != len(der):
        return der
    _, after_info = _value(der, start)
    if not der.startswith(_WITH_NULL, after_info):
        return der
    rest = der[after_info + len(_WITH_NULL) :]
    body = der[start:after_info] + _RIGHT + rest
    return bytes([_SEQUENCE]) + _length(len(body)) + body


def _value(der: bytes, at: int) -> tuple[int, int]:
    """Return where the value of the SEQUENCE at ``at`` begins and ends."""
    if len(der) < at + 2 or der[at] != _SEQUENCE:
        raise ValueError("it is not a DER sequence")
    first = der[at + 1]
    octets = first - _LONG if first & _LONG else 0
    if octets > _MAX_OCTETS or first == _LONG:
        raise ValueError("a length in it makes no sense")
    start = at + 2 + octets
    size = int.from_bytes(der[at + 2 : start], "big") if octets else first
    if start + size > len(der):
        raise ValueError("it is cut short")
    return start, start + size


def _length(size: int) -> bytes:
    if size < _LONG:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([_LONG | len(octets)]) + octets


def _unproven(why: str) -> RejectedError:
    return RejectedError(Code.REQUEST_UNPROVEN, f"the certificate request: {why}")
