"""How certificates of this fleet are put together and signed (pure)."""

import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

ROOT_DAYS = 3650
ISSUING_DAYS = 1825
BACKDATED = timedelta(minutes=5)
"""Certificates begin a little early: clocks of devices run behind."""

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate that may sign others, and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a certificate says about its holder."""

    subject: x509.Name
    usages: tuple[x509.ObjectIdentifier, ...]
    days: float
    alternative: tuple[x509.GeneralName, ...] = ()


def chain_of(leaf: x509.Certificate, issuing: x509.Certificate) -> bytes:
    """Return both as PEM, leaf first."""
    return b"".join(link.public_bytes(Encoding.PEM) for link in (leaf, issuing))


def certify_authority(
    fleet: str, tier: str, parent: Signer | None, now: datetime
) -> Signer:
    """Return a new authority of ``fleet`` with a new key.

    It is signed by ``parent``; without one it is a root and signs itself.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Quarterdeck {tier}"),
        ]
    )
    days = ISSUING_DAYS if parent else ROOT_DAYS
    depth = x509.BasicConstraints(ca=True, path_length=0 if parent else 1)
    builder = (
        _builder(subject, key.public_key(), parent, now, days)
        .add_extension(depth, critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    signing = parent.key if parent else key
    return Signer(builder.sign(signing, hashes.SHA256()), key)


def certify(
    leaf: Leaf, public: ec.EllipticCurvePublicKey, issuer: Signer, now: datetime
) -> x509.Certificate:
    """Return the certificate that says ``leaf`` of who holds ``public``."""
    depth = x509.BasicConstraints(ca=False, path_length=None)
    builder = (
        _builder(leaf.subject, public, issuer, now, leaf.days)
        .add_extension(depth, critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(leaf.usages), critical=False)
    )
    if leaf.alternative:
        names = x509.SubjectAlternativeName(leaf.alternative)
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: Signer | None,
    now: datetime,
    days: float,
) -> x509.CertificateBuilder:
    issuer_public = issuer.key.public_key() if issuer else public
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public),
            critical=False,
        )
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def subject_of(name: str, unit: str = "", generation: int = 0) -> x509.Name:
    """Return the subject of that common name; what is empty or 0 is left out."""
    parts = (
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, name),
        (NameOID.SERIAL_NUMBER, str(generation) if generation else ""),
    )
    return x509.Name([x509.NameAttribute(oid, it) for oid, it in parts if it])


def host_name(host: str) -> x509.GeneralName:
    """Return ``host`` as a certificate names it.

    Raises:
        RejectedError: ``SETTINGS_INVALID`` when it is no name or address.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host):
            return x509.DNSName(host)
    raise RejectedError(
        Code.SETTINGS_INVALID, f"{host!r} is neither a host name nor an address"
    )


def key_pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the private key as PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
