"""Lists of revocations: what ended before it expired, signed by who issued it (pure).

A broker that holds an expired list refuses every device: a list is made anew daily, and
good for long.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from quarterdeck_controller.identity.certifying import BACKDATED

REVOCATIONS_DAYS = 30


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that no longer counts, as a revocation list names it.

    Attributes:
        serial: In hexadecimal.
        replaced: Whether a newer one took its place; it was not taken back.
    """

    serial: str
    at: datetime
    replaced: bool = False


def sign_list(
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    revoked: Iterable[Revoked],
    now: datetime,
    *,
    days: float,
) -> bytes:
    """Return the list (PEM) of what ``issuer`` has issued and is revoked."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - BACKDATED)
        .next_update(now + timedelta(days=days))
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
            critical=False,
        )
    )
    for it in revoked:
        builder = builder.add_revoked_certificate(_entry(it))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _entry(revoked: Revoked) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(revoked.serial, 16))
        .revocation_date(revoked.at)
    )
    if revoked.replaced:
        reason = x509.CRLReason(x509.ReasonFlags.superseded)
        builder = builder.add_extension(reason, critical=False)
    return builder.build()
