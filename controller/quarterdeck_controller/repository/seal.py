"""Seal artifacts, so that only the devices they are assigned to can read them.

The model and its golden vectors are encrypted, once for all devices, in the age format
(https://age-encryption.org/v1) to a key made for that artifact. The key stays in the
home's ``seals`` folder; each assignment carries it encrypted to its device. What was
measured of the model (evaluation, provenance) is no secret.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index, Part, PartName, Plain, cut, digest
from quarterdeck_shared.sealing import SEALED_PARTS, binding

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


@dataclass(frozen=True, slots=True)
class SealedFiles:
    """The parts of one variant with its secrets encrypted.

    Attributes:
        files: The bytes of each part as they are published.
        parts: What the index says of them.
        key: What opens them: an age identity, 74 letters.
    """

    files: Mapping[PartName, bytes]
    parts: tuple[Part, ...]
    key: str


def seal(files: Mapping[PartName, bytes], chunk_bytes: int) -> SealedFiles:
    """Return ``files`` with the model and its vectors encrypted to a new key.

    Raises:
        RejectedError: ``KEY_UNUSABLE`` when what encrypts is not installed.
    """
    age = _age()
    identity = age.x25519.Identity.generate()
    sealed: dict[PartName, bytes] = {}
    parts = []
    for name, data in files.items():
        if name in SEALED_PARTS:
            sealed[name] = age.encrypt(data, [identity.to_public()])
            plain = Plain(length=len(data), sha256=digest(data))
        else:
            sealed[name], plain = data, None
        part = cut(name, sealed[name], chunk_bytes)
        parts.append(part.model_copy(update={"plain": plain}))
    return SealedFiles(sealed, tuple(parts), str(identity))


def unseal(part: Part, data: bytes, key: str) -> bytes:
    """Return what the sealed ``part``, whose bytes are ``data``, holds.

    Raises:
        RejectedError: ``SEAL_INVALID`` when the key does not open it, or something
            else is in it than the index says; ``KEY_UNUSABLE`` as for ``seal``.
    """
    age = _age()
    try:
        opened: bytes = age.decrypt(data, [age.x25519.Identity.from_str(key)])
    except (age.IdentityError, age.DecryptError, OSError, ValueError) as error:
        detail = f"{part.name} cannot be opened: {error}"
        raise RejectedError(Code.SEAL_INVALID, detail) from error
    if part.plain is None or digest(opened) != part.plain.sha256:
        raise RejectedError(
            Code.SEAL_INVALID, f"{part.name} holds something else than is signed"
        )
    return opened


def key_name(index: Index) -> str:
    """Return the name under which an artifact's key is kept: by its sealed model."""
    return f"{index.part('model.onnx').sha256}.key"


@dataclass(frozen=True, slots=True)
class Seals:
    """The keys of sealed artifacts, in a folder of their own."""

    folder: Path

    def keep(self, name: str, key: bytes) -> None:
        """Keep the key of a new artifact under its ``key_name``, for the owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durable(self.folder / name, key, mode=0o600)

    def key(self, index: Index) -> str:
        """Return what opens the artifact.

        Raises:
            RejectedError: ``NOT_FOUND``: no device can be given it any more.
        """
        try:
            return self._file(index).read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise RejectedError(
                Code.NOT_FOUND,
                f"the key of the sealed {index.model}-{index.version} for "
                f"{index.device_class} is not in {self.folder}: {error}",
            ) from error

    def wrap(self, index: Index, *, device: str, seal_key: bytes) -> bytes:
        """Return the artifact's key, encrypted to ``device`` alone.

        Args:
            index: Of the artifact.
            device: Its id.
            seal_key: Its X25519 public key, 32 bytes, given at enrolment.

        Raises:
            RejectedError: ``NOT_FOUND`` as for ``key``; ``KEY_UNUSABLE`` when
                ``seal_key`` is no such key.
        """
        try:
            public = X25519PublicKey.from_public_bytes(seal_key)
            info = binding(device, index.part("model.onnx").sha256)
            return _SUITE.encrypt(self.key(index).encode(), public, info=info)
        except (ValueError, InvalidKey) as error:
            detail = f"the seal key of {device} cannot be used: {error}"
            raise RejectedError(Code.KEY_UNUSABLE, detail) from error

    def _file(self, index: Index) -> Path:
        return self.folder / key_name(index)


def _age() -> ModuleType:
    try:
        return importlib.import_module("pyrage")
    except ImportError as error:
        raise RejectedError(
            Code.KEY_UNUSABLE,
            "sealing needs pyrage: pip install 'quarterdeck-controller[seal]'",
        ) from error
