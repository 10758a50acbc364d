"""The private key of a device's certificate: P-256, for TLS and signed statements.

It is in a file that only the owner reads, or a blob that only the TPM can use.
``cryptography`` cannot load the latter; the ``openssl`` program can.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from quarterdeck_agent.identity.openssl import OpenSsl
from quarterdeck_agent.identity.pem import TPM_KEY, take_apart
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

_P256_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""How the public half of every P-256 key begins, as SubjectPublicKeyInfo in DER."""


class DeviceKey(Protocol):
    """A P-256 private key, wherever it is kept."""

    @property
    def public(self) -> bytes:
        """The public half: SubjectPublicKeyInfo, DER."""
        ...

    @property
    def key_id(self) -> str:
        """Sha256 of ``public``, in hex."""
        ...

    @property
    def in_tpm(self) -> bool:
        """Whether nobody can take it away from this machine."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature with SHA-256 over ``data``, DER.

        Blocking: a TPM takes tens of milliseconds.

        Raises:
            RejectedError: ``KEY_UNUSABLE``.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key in memory, from a file."""

    public: bytes
    key_id: str
    _private: ec.EllipticCurvePrivateKey = field(repr=False)
    in_tpm: bool = False

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature with SHA-256 over ``data``, DER."""
        return self._private.sign(data, ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True, slots=True)
class TpmKey:
    """A key that the TPM keeps; the blob is all that this process ever sees."""

    public: bytes
    key_id: str
    _blob: bytes = field(repr=False)
    _openssl: OpenSsl
    in_tpm: bool = True

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature with SHA-256 over ``data``, DER."""
        return self._openssl.sign(self._blob, data)


def make_key(*, tpm: bool, openssl: OpenSsl) -> bytes:
    """Return a new private key, PEM.

    Raises:
        RejectedError: ``KEY_UNUSABLE``: there is no TPM that can be used.
    """
    if tpm:
        return openssl.make_key()
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes, openssl: OpenSsl) -> DeviceKey:
    """Return the private key in ``pem``.

    Raises:
        RejectedError: ``KEY_UNUSABLE`` when there is none, it is not P-256, or the TPM
            does not know it.
    """
    found = take_apart(pem)
    if found.key is None:
        raise RejectedError(Code.KEY_UNUSABLE, "no private key in the file")
    if found.key_kind == TPM_KEY:
        return _tpm_key(found.key, openssl)
    try:
        private = load_pem_private_key(found.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        detail = f"the private key cannot be read: {error}"
        raise RejectedError(Code.KEY_UNUSABLE, detail) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise RejectedError(Code.KEY_UNUSABLE, f"{found.key_kind}: not a P-256 key")
    public = private.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return FileKey(_p256(public), _id(public), private)


def _tpm_key(blob: bytes, openssl: OpenSsl) -> TpmKey:
    public = _p256(openssl.public_key(blob))
    return TpmKey(public, _id(public), blob, openssl)


def _p256(public: bytes) -> bytes:
    if not public.startswith(_P256_SPKI):
        raise RejectedError(Code.KEY_UNUSABLE, "the key is not a P-256 key")
    return public


def _id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()
