"""Signed envelopes (DSSE v1): what is signed is the type and the payload's bytes.

Form and bounds only: who may sign is decided where an envelope is opened. The format
is https://github.com/secure-systems-lab/dsse.
"""

from pydantic import Field

from quarterdeck_shared.wire import Wire

MAX_SIGNATURES = 16


class Signature(Wire):
    """One signature, and the id of the key that made it."""

    keyid: str = Field(max_length=128)
    sig: str = Field(max_length=8192)


class Sealed(Wire):
    """An envelope as it travels; nothing in it is trusted.

    Attributes:
        payload: Base64 of the signed bytes.
    """

    payload: str
    payload_type: str = Field(alias="payloadType", max_length=128)
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=MAX_SIGNATURES)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a signature covers (DSSE's pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
