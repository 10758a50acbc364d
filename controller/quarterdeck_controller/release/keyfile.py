"""Keys at rest: encrypted files, keys in tokens, and the public halves beside them.

``<name>.pem`` holds a private key (PKCS#8), ``<name>.hsm`` tells where a token keeps
one, ``<name>.pub`` is the public half of either: what is carried to others.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import AwareDatetime, Field
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from quarterdeck_controller.release.roles import NAME_FIELD
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.wire import Wire

MAX_KEY_BYTES = 16 * 1024
PASSPHRASE_FILE = "QUARTERDECK_PASSPHRASE_FILE"
PASSPHRASE = "QUARTERDECK_PASSPHRASE"

Secrets = Callable[[str], str | None]
"""Returns the secret that opens the key named, or None when nobody can be asked."""


def from_environment(name: str) -> str | None:
    """Return the secret that the environment names, whichever key it is for.

    Raises:
        RejectedError: ``NOT_FOUND`` when the file that holds it cannot be read.
    """
    _ = name
    file = os.environ.get(PASSPHRASE_FILE)
    return os.environ.get(PASSPHRASE) if file is None else read_secret(Path(file))


def read_secret(file: Path) -> str:
    """Return the secret in ``file``: its first line.

    Raises:
        RejectedError: ``NOT_FOUND`` when it cannot be read.
    """
    try:
        return (file.read_text("utf-8").splitlines() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise RejectedError(
            Code.NOT_FOUND, f"the secret in {file} cannot be read: {error}"
        ) from error


class PublicHalf(Wire):
    """``<name>.pub``: the half of a key that anybody may have.

    Attributes:
        key: Type, scheme and value as ``securesystemslib`` writes them.
    """

    v: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")
    key: dict[str, Any]
    created: AwareDatetime

    @classmethod
    def of(cls, name: str, key: Key, created: datetime) -> Self:
        """Return the public half of ``key``."""
        return cls(name=name, key=key.to_dict(), created=created)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the public half in ``file``.

        Raises:
            RejectedError: ``NOT_FOUND``, ``TOO_LARGE``, ``MALFORMED`` or
                ``VERSION_UNKNOWN`` when it holds none.
        """
        half = cls.decode(_bytes(file), limit=MAX_KEY_BYTES)
        half.public()
        return half

    def public(self) -> Key:
        """Return the key, with its name signed beside it wherever it is listed.

        Its id is computed anew: a file cannot claim another key's.

        Raises:
            RejectedError: ``MALFORMED`` when it is no Ed25519 or P-256 key.
        """
        try:
            key = _canonical(self.key)
        except (KeyError, TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise RejectedError(
                Code.MALFORMED, f"{self.name}.pub holds no Ed25519 or P-256 key"
            ) from error
        key.unrecognized_fields[NAME_FIELD] = self.name
        return key


def _canonical(described: dict[str, Any]) -> SSlibKey:
    value = described["keyval"]["public"]
    if described["scheme"] == "ed25519":
        return SSlibKey.from_crypto(
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(value))
        )
    public = load_pem_public_key(value.encode())
    if not isinstance(public, EllipticCurvePublicKey) or not isinstance(
        public.curve, SECP256R1
    ):
        raise ValueError("another kind of key")
    return SSlibKey.from_crypto(public)


def fingerprint(keyid: str) -> str:
    """Return the beginning of a key's id as people read it to each other."""
    return "-".join(keyid[at : at + 4] for at in range(0, 16, 4))


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One key at rest."""

    path: Path

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether ``path`` is named like a key."""
        return path.suffix == ".pem"

    @property
    def name(self) -> str:
        """The key's name: that of its file."""
        return self.path.stem

    def keyid(self) -> str | None:
        """Return the key's id, or None when the file does not tell it."""
        beside = self.path.with_suffix(".pub")
        try:
            if beside.is_file():
                return PublicHalf.read(beside).public().keyid
            return self.signer(lambda _: None).public_key.keyid
        except RejectedError:
            return None

    def check_readable(self) -> None:
        """Refuse a file that holds no key.

        Raises:
            RejectedError: ``HOME_INVALID`` when it cannot be read.
        """
        self.signer(lambda _: None)

    def signer(self, secrets: Secrets) -> Signer:
        """Return the key, opened with the secret that ``secrets`` knows.

        Raises:
            RejectedError: ``NOT_FOUND`` when there is no such file, ``HOME_INVALID``
                when it holds no key.
        """
        data = _bytes(self.path)
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self._unreadable(str(error)) from error
        if isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
            return CryptoSigner(key)
        raise self._unreadable("it is no Ed25519 or P-256 key")

    def _unreadable(self, why: str) -> RejectedError:
        return RejectedError(Code.HOME_INVALID, f"{self.path} cannot be read: {why}")


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise RejectedError(Code.NOT_FOUND, f"{file}: {error.strerror}") from error
    if len(data) > MAX_KEY_BYTES:
        raise RejectedError(
            Code.TOO_LARGE, f"{file} has more than {MAX_KEY_BYTES} bytes: it is no key"
        )
    return data
