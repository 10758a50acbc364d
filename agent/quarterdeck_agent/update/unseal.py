"""Open the parts of a sealed artifact, in memory (PROTOCOL.md section 7).

The plain bytes never touch the disk: they go into an anonymous file in memory that
nobody can change once it is complete. The stream is written out before its end proves
that nothing was cut off, so nothing is handed out before its length and sha256 are
those that are signed.
"""

import fcntl
import hashlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import BinaryIO

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index, Part, Plain
from quarterdeck_shared.sealing import SEAL_KEY_BYTES, binding

_COMPLETE = (
    fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
)


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens what was sealed for this device.

    Attributes:
        device: Its id.
        seal_key: The file of its X25519 private key, 32 bytes.
    """

    device: str
    seal_key: Path

    def check(self, wrapped: bytes | None, index: Index) -> None:
        """Return when this device will be able to open the artifact.

        Raises:
            RejectedError: As for ``content_key`` and ``open``.
        """
        if util.find_spec("pyrage") is None:
            raise _lacking()
        self.content_key(wrapped, index)

    def content_key(self, wrapped: bytes | None, index: Index) -> str:
        """Return the key of the artifact that an assignment carries for us.

        Raises:
            RejectedError: ``SEAL_INVALID`` when it is missing or not for this device
                and artifact, or the device's own key cannot be read.
        """
        if wrapped is None:
            raise _invalid("the assignment carries no key for this device")
        # Loaded late: most devices never open anything sealed.
        hpke = importlib.import_module("cryptography.hazmat.primitives.hpke")
        x25519 = importlib.import_module(
            "cryptography.hazmat.primitives.asymmetric.x25519"
        )
        errors = importlib.import_module("cryptography.exceptions")
        suite = hpke.Suite(
            hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305
        )
        info = binding(self.device, index.part("model.onnx").sha256)
        try:
            private = x25519.X25519PrivateKey.from_private_bytes(self._private())
            opened: bytes = suite.decrypt(wrapped, private, info=info)
            return opened.decode("ascii")
        except (errors.InvalidTag, ValueError) as error:
            raise _invalid(
                "the key in the assignment is not for this device and artifact"
            ) from error

    def open(self, cipher: BinaryIO, part: Part, key: str) -> BinaryIO:
        """Return the plain bytes of ``part`` as a file in memory, at its beginning.

        Args:
            cipher: The sealed bytes, whose sha256 was checked.
            part: What the index says of them.
            key: From ``content_key``.

        Raises:
            RejectedError: ``SEAL_INVALID``; ``INCOMPATIBLE`` when what opens sealed
                artifacts is not installed.
        """
        if part.plain is None:
            raise ValueError(f"{part.name} is not sealed")
        decrypt = _decrypter(key)
        handle = os.memfd_create(part.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        plain = os.fdopen(handle, "w+b", buffering=0)
        try:
            sink = _Sink(plain, part.plain)
            try:
                decrypt(cipher, sink)
            except (OSError, ValueError) as error:
                raise _invalid(f"{part.name} cannot be opened: {error}") from error
            sink.check()
            fcntl.fcntl(handle, fcntl.F_ADD_SEALS, _COMPLETE)
            plain.seek(0)
        except BaseException:
            plain.close()
            raise
        return plain

    def _private(self) -> bytes:
        try:
            data = self.seal_key.read_bytes()
        except OSError as error:
            raise _invalid(f"{self.seal_key}: {error.strerror}") from error
        if len(data) != SEAL_KEY_BYTES:
            raise _invalid(f"{self.seal_key} has {len(data)} bytes")
        return data


class _Sink:
    """Takes what is decrypted, no more than is signed, and hashes it."""

    def __init__(self, file: BinaryIO, plain: Plain) -> None:
        self._file = file
        self._plain = plain
        self._hash = hashlib.sha256()
        self._count = 0

    def write(self, data: bytes) -> int:
        self._count += len(data)
        if self._count > self._plain.length:
            raise OSError(f"it holds more than {self._plain.length} bytes")
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def check(self) -> None:
        """Return when all came that is signed, and nothing else."""
        seen = self._hash.hexdigest()
        if (self._count, seen) != (self._plain.length, self._plain.sha256):
            raise _invalid(
                f"{self._count} bytes of digest {seen[:12]} came out, "
                f"{self._plain.length} of {self._plain.sha256[:12]} are signed"
            )


def _decrypter(key: str) -> Callable[[BinaryIO, _Sink], None]:
    try:
        age = importlib.import_module("pyrage")
    except ImportError as error:
        raise _lacking() from error
    try:
        identity = age.x25519.Identity.from_str(key)
    except age.IdentityError as error:
        raise _invalid(f"the content key is none: {error}") from error

    def decrypt(cipher: BinaryIO, sink: _Sink) -> None:
        try:
            age.decrypt_io(cipher, sink, [identity])
        except age.DecryptError as error:
            raise ValueError(str(error)) from error

    return decrypt


def _lacking() -> RejectedError:
    return RejectedError(
        Code.INCOMPATIBLE,
        "the artifact is sealed, and what opens it is not on this device:"
        " pip install 'quarterdeck-agent[seal]'",
    )


def _invalid(detail: str) -> RejectedError:
    return RejectedError(Code.SEAL_INVALID, detail)
