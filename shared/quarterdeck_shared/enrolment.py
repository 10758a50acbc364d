"""How a machine becomes a device, and stays one (PROTOCOL.md section 10).

The device makes its own keys; only certificate requests travel. A request to be
enrolled is let in by a claim certificate and a one-time token; a renewal is let in by
the certificate that it replaces, which the broker ties to the topic.

A token never travels: it is the seed of an Ed25519 key, and what travels is signed with
it (a DSSE envelope of type ``ENROL_TYPE``, whose key id is the public key in hex). So
the broker can neither use a token nor change what is asked for with it, and neither can
somebody who reads the controller's database, which keeps a digest of the public key.
"""

import hashlib
from typing import Literal

from pydantic import Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.ids import DeviceId
from quarterdeck_shared.wire import Wire

ENROL_TYPE = "application/vnd.quarterdeck.enrolment.v1+json"
MAX_ENROL_BYTES = 16 * 1024
MAX_CSR_BYTES = 4096
MAX_CHAIN_BYTES = 16 * 1024
CLAIM_PREFIX = "claim-"
"""Common names of claim certificates begin so; no device's id does. The name of a claim
is the whole common name, on topics and in permissions too."""


class EnrolRequest(Wire):
    """A machine that holds a token asks for its first certificate.

    Attributes:
        csr: PKCS#10, PEM, of a P-256 key; its common name is the device.
        seal_key: X25519 public key to which content keys are sealed; 32 bytes.
    """

    v: Literal[1] = 1
    device: DeviceId
    csr: bytes = Field(max_length=MAX_CSR_BYTES)
    seal_key: bytes | None = Field(default=None, min_length=32, max_length=32)


def token_seed(token: str) -> bytes:
    """Return the Ed25519 private key, 32 bytes, that a token stands for."""
    return hashlib.sha256(b"quarterdeck/enrolment-token/v1\0" + token.encode()).digest()


class RenewalRequest(Wire):
    """A device asks for a certificate of a new key, before the old one ends.

    Attributes:
        id: Drawn by the device; the answer repeats it.
    """

    v: Literal[1] = 1
    id: int = Field(ge=0, lt=1 << 53)
    csr: bytes = Field(max_length=MAX_CSR_BYTES)


class CertificateReply(Wire):
    """The answer to both.

    Attributes:
        id: That of a renewal's request; 0 for an enrolment.
        chain: The certificate and those that issued it, leaf first, PEM; None when
            the request was refused.
        code: Why it was refused.
    """

    v: Literal[1] = 1
    id: int = Field(default=0, ge=0, lt=1 << 53)
    chain: bytes | None = Field(default=None, max_length=MAX_CHAIN_BYTES)
    code: Code | None = None
    detail: str = Field(default="", max_length=300)
