"""Invitations: what lets a machine become a device, once.

A token is 192 random bits that name one device and, through it, its class. Only a
digest of the public half of the key that it stands for is kept: whoever reads the
database cannot enrol with it. A claim certificate goes with it, which opens the
broker's door for asking and for nothing else; machines that are invited together share
one.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.offer import digest
from quarterdeck_controller.store.records import Claim, Device, Token
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CLAIM_PREFIX
from quarterdeck_shared.errors import RejectedError

VALID = timedelta(days=7)
MIN_VALID, MAX_VALID = timedelta(minutes=1), timedelta(days=365)
_TOKEN_BYTES = 24
_NAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a machine needs to enrol; the token and the claim's key are secrets.

    Attributes:
        claim: Name of the claim certificate.
        claim_pem: Its private key, certificate and chain, in one PEM.
    """

    device: str
    device_class: str
    token: str = field(repr=False)
    claim: str
    claim_pem: bytes = field(repr=False)
    expires: datetime


def invite(
    records: Records,
    authority: Authority,
    devices: Sequence[Device],
    *,
    now: datetime,
    valid: timedelta = VALID,
) -> tuple[Invitation, ...]:
    """Return an invitation for each of ``devices``, which share one new claim.

    Open tokens that a device had before are withdrawn: the newest one counts.

    Raises:
        RejectedError: ``DEVICE_REVOKED`` for a device that was revoked,
            ``NOT_ALLOWED`` for a time that is too short or too long.
    """
    _check(devices, valid)
    expires = now + valid
    name = f"{CLAIM_PREFIX}{secrets.token_hex(_NAME_BYTES)}"
    identity = authority.issue_claim(name, days=valid / timedelta(days=1))
    records.claims.add(Claim(name, now, expires, identity.serial))
    invitations = tuple(
        Invitation(
            it.id,
            it.device_class,
            secrets.token_urlsafe(_TOKEN_BYTES),
            name,
            identity.pem,
            expires,
        )
        for it in devices
    )
    records.tokens.withdraw([it.id for it in devices], now)
    records.tokens.add(
        [Token(digest(it.token), it.device, name, now, expires) for it in invitations]
    )
    return invitations


def _check(devices: Sequence[Device], valid: timedelta) -> None:
    if not MIN_VALID <= valid <= MAX_VALID:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"an invitation is good for {MIN_VALID.seconds // 60} minute to "
            f"{MAX_VALID.days} days, {valid.total_seconds():g} s were asked for",
        )
    for device in devices:
        if device.revoked_at is not None:
            raise RejectedError(
                Code.DEVICE_REVOKED,
                f"{device.id} was revoked at {device.revoked_at:%Y-%m-%d %H:%M}:"
                f" {device.revoked_why}",
            )
