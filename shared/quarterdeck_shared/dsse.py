"""Signed envelopes (DSSE v1): what is signed is the type and the payload's bytes.

Form and bounds only: an ``Opened`` envelope is still untrusted, and who may have signed
it is decided by whom holds the keys. The format is
https://github.com/secure-systems-lab/dsse.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
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


@dataclass(frozen=True, slots=True)
class Opened:
    """The bytes of an envelope that has the right form, verified by nobody yet.

    Attributes:
        signatures: Each signature's bytes, by the id of the key said to have made it.
    """

    payload_type: str
    payload: bytes
    signatures: Mapping[str, bytes]

    @property
    def signed(self) -> bytes:
        """The bytes that every signature must cover."""
        return pae(self.payload_type, self.payload)


def opened(envelope: bytes, payload_type: str, *, limit: int) -> Opened:
    """Return what ``envelope`` holds; nothing of it is trusted.

    Raises:
        RejectedError: ``TOO_LARGE`` past ``limit`` bytes; ``MALFORMED`` when it is no
            envelope, is of another type, or names one key twice.
    """
    form = Sealed.decode(envelope, limit=limit)
    if form.payload_type != payload_type:
        raise RejectedError(
            Code.MALFORMED, f"payload type {form.payload_type!r}, not {payload_type!r}"
        )
    signatures = {one.keyid: _decoded(one.sig) for one in form.signatures}
    if len(signatures) != len(form.signatures):
        raise RejectedError(Code.MALFORMED, "envelope: one key has signed twice")
    return Opened(payload_type, _decoded(form.payload), signatures)


def sealed(payload_type: str, payload: bytes, signatures: Mapping[str, bytes]) -> bytes:
    """Return the envelope of ``payload`` with ``signatures`` by their key ids."""
    made = tuple(
        Signature(keyid=key, sig=base64.b64encode(made).decode())
        for key, made in signatures.items()
    )
    form = Sealed(
        payload=base64.b64encode(payload).decode(),
        payloadType=payload_type,
        signatures=made,
    )
    return form.model_dump_json(by_alias=True).encode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RejectedError(Code.MALFORMED, f"envelope: {error}") from error
