"""Keys at rest: encrypted files, keys in tokens, and the public halves beside them.

``<name>.pem`` holds a private key (PKCS#8), ``<name>.hsm`` tells where a token keeps
one, ``<name>.pub`` is the public half of either: what is carried to others.
"""

import functools
import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import AwareDatetime, Field
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from quarterdeck_controller.repository.passphrase import (
    PrivateKey,
    encrypted_pem,
    plain_pem,
)
from quarterdeck_controller.repository.place import Place
from quarterdeck_controller.repository.roles import NAME_FIELD
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.wire import Wire

MAX_KEY_BYTES = 16 * 1024
NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$"
VARIABLE = "QUARTERDECK_PASSPHRASE"
FILE_VARIABLE = "QUARTERDECK_PASSPHRASE_FILE"

Secrets = Callable[[str], str | None]
"""Returns the passphrase or PIN of what is named, None when nobody can tell it."""

Kind = Literal["ed25519", "p256"]


def from_environment(wanted: str) -> str | None:
    """Return the passphrase that the environment tells, whichever key it is for.

    Raises:
        RejectedError: ``NOT_FOUND`` when the file that holds it cannot be read.
    """
    del wanted
    file = os.environ.get(FILE_VARIABLE)
    if file is not None:
        return read_secret(Path(file))
    return os.environ.get(VARIABLE)


def read_secret(file: Path) -> str:
    """Return the secret in ``file``: its first line.

    Raises:
        RejectedError: ``NOT_FOUND`` when it cannot be read.
    """
    try:
        return (read_bounded(file).decode().splitlines() or [""])[0]
    except UnicodeDecodeError as error:
        raise RejectedError(Code.NOT_FOUND, f"{file} holds no text") from error


class PublicHalf(Wire):
    """``<name>.pub``: the half of a key that anybody may have.

    Attributes:
        key: Type, scheme and value as ``securesystemslib`` writes them.
    """

    v: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    key: dict[str, Any]
    created: AwareDatetime

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the public half in ``file``.

        Raises:
            RejectedError: ``NOT_FOUND``, ``TOO_LARGE``, ``MALFORMED``,
                ``VERSION_UNKNOWN`` or ``KEY_INVALID`` when it holds none.
        """
        half = cls.decode(read_bounded(file), limit=MAX_KEY_BYTES)
        half.public()
        return half

    def public(self) -> Key:
        """Return the key, with its name signed beside it wherever it is listed.

        Its id is computed anew: a file cannot claim another key's.

        Raises:
            RejectedError: ``KEY_INVALID`` when it is no Ed25519 or P-256 key.
        """
        key = canonical(self.key, f"{self.name}.pub")
        key.unrecognized_fields[NAME_FIELD] = self.name
        return key


def canonical(described: Mapping[str, Any], where: str) -> SSlibKey:
    """Return the key that ``described`` describes, under the id that is its own.

    Raises:
        RejectedError: ``KEY_INVALID`` when it is no Ed25519 or P-256 key.
    """
    try:
        return _parsed(described)
    except (KeyError, TypeError, ValueError, AttributeError, UnsupportedAlgorithm) as e:
        raise RejectedError(
            Code.KEY_INVALID, f"{where} describes no Ed25519 or P-256 key"
        ) from e


def _parsed(described: Mapping[str, Any]) -> SSlibKey:
    value = described["keyval"]["public"]
    if described["scheme"] == "ed25519":
        raw = Ed25519PublicKey.from_public_bytes(bytes.fromhex(value))
        return SSlibKey.from_crypto(raw)
    public = load_pem_public_key(value.encode())
    if isinstance(public, EllipticCurvePublicKey) and public.curve.name == "secp256r1":
        return SSlibKey.from_crypto(public)
    raise TypeError("another kind of key")


def key_name(key: Key) -> str:
    """Return what the key's holder calls it; a part of its id when that is unknown."""
    name = key.unrecognized_fields.get(NAME_FIELD)
    return name if isinstance(name, str) and name.isprintable() else key.keyid[:12]


def fingerprint(keyid: str) -> str:
    """Return the beginning of an id as people read it to each other."""
    return "-".join(keyid[at : at + 4] for at in range(0, 16, 4))


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One key at rest."""

    path: Path

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether ``path`` is named like a key."""
        return path.suffix in {".pem", ".hsm"}

    @property
    def name(self) -> str:
        """The key's name: that of its file."""
        return self.path.stem

    @property
    def half(self) -> Path:
        """Where the public half is."""
        return self.path.with_suffix(".pub")

    def keyid(self) -> str | None:
        """Return the key's id, None when an encrypted file does not tell it."""
        try:
            if self.path.suffix == ".hsm":
                return self._public_in_token(self._place()).keyid
            if self.half.is_file():
                return PublicHalf.read(self.half).public().keyid
            return self.signer(_nobody).public_key.keyid
        except RejectedError:
            return None

    def is_encrypted(self) -> bool:
        """Return whether the key cannot be used without a passphrase or PIN."""
        try:
            self.signer(_nobody)
        except RejectedError as error:
            return error.code is Code.KEY_LOCKED
        return self.path.suffix == ".hsm"

    def signer(self, secrets: Secrets) -> Signer:
        """Return the key, opened with the secret that ``secrets`` tells.

        Raises:
            RejectedError: ``NOT_FOUND`` when there is no such file, ``KEY_INVALID``
                when it holds no key or another than its public half says,
                ``KEY_LOCKED`` when the secret is missing or wrong.
        """
        if self.path.suffix == ".hsm":
            place = self._place()
            wanted = f"the PIN of the token {place.token} for {self.name}"
            public = self._public_in_token(place)
            pin = functools.partial(self._secret, wanted, secrets)
            signer: Signer = tokens().TokenKey(place, public, pin)
            return signer
        opened = CryptoSigner(self._private(secrets))
        self._check_half(opened.public_key)
        return opened

    def _place(self) -> Place:
        return Place.decode(read_bounded(self.path), limit=MAX_KEY_BYTES)

    def _public_in_token(self, place: Place) -> SSlibKey:
        return canonical(place.key, str(self.path))

    def _private(self, secrets: Secrets) -> PrivateKey:
        data = read_bounded(self.path)
        try:
            key = load_pem_private_key(data, password=None)
        except TypeError:
            key = self._decrypted(data, secrets)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self._invalid(str(error)) from error
        if isinstance(key, Ed25519PrivateKey):
            return key
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(
            key.curve, SECP256R1
        ):
            return key
        raise self._invalid("it is no Ed25519 or P-256 key")

    def _decrypted(self, data: bytes, secrets: Secrets) -> PrivateKeyTypes:
        passphrase = self._secret(f"the passphrase of {self.name}", secrets)
        try:
            return load_pem_private_key(data, password=passphrase.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RejectedError(
                Code.KEY_LOCKED, f"{self.path} does not open with that passphrase"
            ) from error

    def _secret(self, wanted: str, secrets: Secrets) -> str:
        secret = secrets(wanted)
        if not secret:
            raise RejectedError(
                Code.KEY_LOCKED, f"{self.path}: nobody could be asked for {wanted}"
            )
        return secret

    def _check_half(self, public: Key) -> None:
        if not self.half.is_file():
            return
        told = PublicHalf.read(self.half).public().keyid
        if told != public.keyid:
            raise self._invalid(
                f"its id is {public.keyid[:12]}, {self.half.name} says {told[:12]}"
            )

    def _invalid(self, why: str) -> RejectedError:
        return RejectedError(Code.KEY_INVALID, f"{self.path} cannot be used: {why}")


def tokens() -> ModuleType:
    """Return the module that knows tokens: it needs a library that is not always here.

    Raises:
        RejectedError: ``KEY_INVALID`` when the library is missing.
    """
    try:
        return importlib.import_module("quarterdeck_controller.repository.hsm")
    except ImportError as error:
        raise RejectedError(
            Code.KEY_INVALID,
            "keys in tokens need python-pkcs11: pip install "
            f"'quarterdeck-controller[hsm]' ({error})",
        ) from error


def _nobody(wanted: str) -> None:
    del wanted


def make_key(
    folder: Path, name: str, kind: Kind, passphrase: str | None, created: datetime
) -> PublicHalf:
    """Make ``<name>.pem`` and ``<name>.pub``; without a passphrase anybody can use it.

    Raises:
        RejectedError: ``CONFLICT`` when there is a key of that name, ``DISK_FAILED`` or
            ``DISK_FULL`` when it cannot be written.
    """
    private: PrivateKey = (
        Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else generate_private_key(SECP256R1())
    )
    public = CryptoSigner(private).public_key
    pem = encrypted_pem(private, passphrase) if passphrase else plain_pem(private)
    return _keep(folder, name, public, created, suffix=".pem", data=pem)


def keep_place(folder: Path, name: str, place: Place, created: datetime) -> PublicHalf:
    """Write ``<name>.hsm`` and ``<name>.pub`` for a key in a token.

    Raises:
        RejectedError: As ``make_key``.
    """
    public = canonical(place.key, place.label)
    return _keep(folder, name, public, created, suffix=".hsm", data=place.encode())


def check_free(folder: Path, name: str) -> None:
    """Refuse to make a key where one of that name is.

    Raises:
        RejectedError: ``CONFLICT``.
    """
    for suffix in (".pem", ".hsm", ".pub"):
        file = folder / f"{name}{suffix}"
        if file.exists() or file.is_symlink():
            raise RejectedError(Code.CONFLICT, f"{file} exists; take another name")


def _keep(
    folder: Path, name: str, public: Key, created: datetime, *, suffix: str, data: bytes
) -> PublicHalf:
    check_free(folder, name)
    half = PublicHalf(name=name, key=public.to_dict(), created=created)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The private half first: a public one alone could be handed out in vain.
        write_durable(folder / f"{name}{suffix}", data, mode=0o600)
        write_durable(folder / f"{name}.pub", half.encode() + b"\n")
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{folder / name} cannot be written: {error.strerror}"
        ) from error
    return half


def read_bounded(file: Path) -> bytes:
    """Return the bytes of a small file.

    Raises:
        RejectedError: ``NOT_FOUND`` when it cannot be read, ``TOO_LARGE`` when it is
            larger than any key.
    """
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
