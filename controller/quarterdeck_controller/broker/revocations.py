"""Whether a list of revoked certificates may be given to a broker (pure).

A broker that has a list refuses every certificate that the list does not clear: one
that has expired, or is of another authority, locks the whole fleet out. What a
certificate may do hangs on its generation and not on the list, so that going without
is safe: a list that cannot be used is left out.
"""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SOON = timedelta(days=1)
"""A list that ends within this time should have been made anew long before."""

_END = b"-----END X509 CRL-----"


def fault(lists: bytes, chain: bytes, now: datetime) -> str | None:
    """Return why ``lists`` would lock the fleet out, or None when they would not.

    Args:
        lists: Revocation lists, PEM.
        chain: The broker's own certificate and what issued it, PEM, which issues the
            devices' certificates too.
        now: The time.
    """
    try:
        issuers = x509.load_pem_x509_certificates(chain)[1:2]
        parsed = _parse(lists)
    except (ValueError, x509.InvalidVersion) as error:
        return f"it is damaged: {error}"
    for it in parsed:
        ends = it.next_update_utc
        if ends is not None and ends <= now:
            return f"it expired at {ends:%Y-%m-%d %H:%M} UTC"
        if it.last_update_utc > now:
            return f"it is not valid before {it.last_update_utc:%Y-%m-%d %H:%M} UTC"
    if not any(_signed(it, issuer) for it in parsed for issuer in issuers):
        return "none is of the authority that issues the devices' certificates"
    return None


def ends(lists: bytes) -> datetime | None:
    """Return when the first of ``lists``, which are sound, expires; None if never."""
    moments = (it.next_update_utc for it in _parse(lists))
    return min((it for it in moments if it is not None), default=None)


def _parse(lists: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    pieces = [it for it in lists.split(_END) if it.strip()]
    return tuple(x509.load_pem_x509_crl(piece + _END) for piece in pieces)


def _signed(it: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if not isinstance(key, EllipticCurvePublicKey) or it.issuer != issuer.subject:
        return False
    return it.is_signature_valid(key)
