"""A request to be enrolled, and the token that vouches for it (pure).

The token is the seed of an Ed25519 key (``enrolment.token_seed``): a request is signed
with it, and what is kept of a token is the sha256 of the public half.
"""

import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import opened
from quarterdeck_shared.enrolment import (
    ENROL_TYPE,
    MAX_ENROL_BYTES,
    EnrolRequest,
    token_seed,
)
from quarterdeck_shared.errors import RejectedError

_KEY_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Offer:
    """A request that holds what its sender signed with a token.

    Attributes:
        token: The token's digest, as the store knows it.
    """

    request: EnrolRequest
    token: str


def digest(token: str) -> str:
    """Return what is kept of a token."""
    key = Ed25519PrivateKey.from_private_bytes(token_seed(token))
    return _digest(key.public_key().public_bytes_raw())


def read_offer(payload: bytes) -> Offer:
    """Return what ``payload`` asks for; the signature is verified before it is read.

    Raises:
        RejectedError: ``TOO_LARGE`` or ``MALFORMED``; ``TOKEN_INVALID`` when no token
            has signed it.
    """
    envelope = opened(payload, ENROL_TYPE, limit=MAX_ENROL_BYTES)
    if len(envelope.signatures) != 1:
        raise RejectedError(
            Code.MALFORMED, f"{len(envelope.signatures)} signatures, one is asked for"
        )
    ((keyid, signature),) = envelope.signatures.items()
    if not _KEY_ID.fullmatch(keyid):
        raise RejectedError(Code.MALFORMED, "the key id is no Ed25519 key in hex")
    public = bytes.fromhex(keyid)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, envelope.signed)
    except (InvalidSignature, ValueError) as error:
        raise RejectedError(
            Code.TOKEN_INVALID, "the token: it has not signed the request"
        ) from error
    request = EnrolRequest.decode(envelope.payload, limit=MAX_ENROL_BYTES)
    return Offer(request, _digest(public))


def _digest(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()
