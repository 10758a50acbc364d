"""Who asks, and whether they may.

An operator proves who they are with a token, or with a certificate by signing a
challenge that the door has just drawn. While a home has never had an operator, whoever
is at the machine is its admin: there is nothing yet that could tell people apart.

This guards against mistakes, separates duties and makes a record. It does not hold off
somebody who can write the files of the home: they need none of our doors.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from quarterdeck_controller.access.roles import Act, Role, permits
from quarterdeck_controller.store.access import Operator
from quarterdeck_controller.store.ledger import By
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

LOCAL_PREFIX = "os:"
"""Names of actors of whom only the machine says who they are begin so."""

CHALLENGE_BYTES = 32
_CONTEXT = b"quarterdeck operator challenge v1\0"
_MAX_TOKEN = 200


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was given."""

    text: str

    @property
    def digest(self) -> str:
        """What is stored of it."""
        return token_digest(self.text)


@dataclass(frozen=True, slots=True)
class Answer:
    """A certificate, and the proof that whoever shows it holds its key.

    Attributes:
        challenge: What the door drew; it accepts one answer to it.
        signature: ECDSA with SHA-256 over ``signed_bytes(challenge)``, DER.
    """

    certificate: x509.Certificate
    challenge: bytes
    signature: bytes


Credential = Token | Answer


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody of whom we know who it is.

    Attributes:
        expires_at: When their credential ends; None where they needed none.
    """

    name: str
    role: Role
    expires_at: datetime | None = None

    def doing(self, act: Act) -> By:
        """Return what the audit log says of them."""
        return By(self.name, self.role, act.word)


def authenticate(
    records: Records,
    credential: Credential | None,
    now: datetime,
    *,
    user: str | None = None,
) -> Actor:
    """Return who asks.

    ``user`` is who is logged in at this machine; a door that others reach knows nobody
    so, and leaves it out.

    Raises:
        RejectedError: ``UNAUTHENTICATED``.
    """
    if user is not None and not records.operators.exist():
        return local_admin(user)
    if credential is None:
        raise _unknown("this home has operators, and no token or certificate was given")
    operator = _claimed(records, credential, now)
    if operator.revoked_at is not None:
        raise _unknown(f"{operator.name} was revoked at {_said(operator.revoked_at)}")
    if not operator.usable(now):
        raise _unknown(
            f"the credential of {operator.name} ended at {_said(operator.expires_at)}:"
            f" an admin can renew it with: quarterdeck operator renew {operator.name}"
        )
    return Actor(operator.name, Role(operator.role), operator.expires_at)


def authorize(actor: Actor, act: Act) -> None:
    """Return if ``actor`` may do ``act``.

    Raises:
        RejectedError: ``NOT_PERMITTED``.
    """
    if not permits(actor.role, act):
        raise RejectedError(
            Code.NOT_PERMITTED,
            f"{actor.name} is {actor.role}; {act.word} needs {act.role}",
        )


def local_admin(user: str) -> Actor:
    """Return ``user`` of this machine as an admin."""
    return Actor(f"{LOCAL_PREFIX}{user}", Role.ADMIN)


def token_digest(text: str) -> str:
    """Return what is stored of a token.

    It was drawn with 256 bits, so that a plain digest cannot be searched for it.
    """
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def certificate_digest(certificate: x509.Certificate) -> str:
    """Return what is stored of a certificate."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def signed_bytes(challenge: bytes) -> bytes:
    """Return what the holder of a certificate signs to answer ``challenge``.

    The context keeps such a signature from meaning anything elsewhere.
    """
    if len(challenge) != CHALLENGE_BYTES:
        raise ValueError(f"a challenge of {len(challenge)} bytes")
    return _CONTEXT + challenge


def _claimed(records: Records, credential: Credential, now: datetime) -> Operator:
    match credential:
        case Token(text):
            known = len(text) <= _MAX_TOKEN
            found = records.operators.by_token(credential.digest) if known else None
            if found is None:
                raise _unknown("the token is none of this home's, or no longer")
        case Answer(certificate):
            found = records.operators.by_certificate(certificate_digest(certificate))
            if found is None:
                raise _unknown("the certificate is none of this home's, or no longer")
            _check_proof(credential, now)
    return found


def _check_proof(answer: Answer, now: datetime) -> None:
    certificate, public = answer.certificate, answer.certificate.public_key()
    if now < certificate.not_valid_before_utc:
        begins = _said(certificate.not_valid_before_utc)
        raise _unknown(f"the certificate begins at {begins}, it is {_said(now)}")
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise _unknown("the certificate's key is not of an elliptic curve")
    try:
        public.verify(
            answer.signature,
            signed_bytes(answer.challenge),
            ec.ECDSA(hashes.SHA256()),
        )
    except InvalidSignature as error:
        raise _unknown("the key does not belong to the certificate") from error


def _unknown(why: str) -> RejectedError:
    return RejectedError(Code.UNAUTHENTICATED, why)


def _said(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
