"""Identities of devices without the way over the broker: key, request, certificate."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from quarterdeck_controller.identity.authority import Authority, Identity, Issued
from quarterdeck_controller.identity.requests import prove
from quarterdeck_controller.store.store import Records

DAYS = 30


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a key as a device makes it."""
    return ec.generate_private_key(ec.SECP256R1())


def request(device: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the certificate request (PEM) of ``device`` for ``key``."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def device_identity(
    authority: Authority,
    device: str,
    device_class: str,
    *,
    generation: int = 1,
    days: float = DAYS,
) -> Identity:
    """Return the identity of a device, with a new key."""
    key = new_key()
    proven = prove(request(device, key), device)
    issued = authority.issue_device(proven, device_class, generation, days=days)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(issued.chain_pem, pem)


def write_identity(bundle: Path, identity: Identity) -> Path:
    """Write ``identity`` where the agent of ``bundle`` looks for it."""
    file = bundle / "state" / "identity.pem"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(identity.pem)
    return file


def record_identity(records: Records, identity: Identity) -> None:
    """Have the store know ``identity``, so that a controller admits its device."""
    leaf = x509.load_pem_x509_certificate(identity.certificate_pem)
    records.certificates.add([Issued(leaf, b"").record])
