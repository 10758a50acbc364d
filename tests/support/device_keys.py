"""A device's key in memory."""

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from quarterdeck_agent.identity.key import FileKey


def device_key() -> FileKey:
    """Return a new key, as a device that enrolled has it."""
    private = ec.generate_private_key(ec.SECP256R1())
    form = PublicFormat.SubjectPublicKeyInfo
    public = private.public_key().public_bytes(Encoding.DER, form)
    return FileKey(public, sha256(public).hexdigest(), private)
