"""The files that make a device who it is: written so that a power cut halves nothing.

``identity.pem``      the private key and its certificate chain, in one file
``identity.new.pem``  beside it: a key whose certificate was asked for, later with its
                      certificate, until the broker let it in
``seal.key``          the X25519 key to which contents are sealed, 32 bytes

Only the owner may read any of them, from their first byte on. A key that settings name
stays where it is, and the two files then hold certificates alone; a blob of the TPM
that they name is only the first of its keys, because a blob may be anywhere. These
functions block.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from quarterdeck_agent.durable import disk_error
from quarterdeck_agent.identity.certificate import (
    Certificate,
    read_leaf,
    verify_chain,
)
from quarterdeck_agent.identity.key import DeviceKey, load_key, make_key
from quarterdeck_agent.identity.openssl import TPM_CONF, OpenSsl
from quarterdeck_agent.identity.pem import MAX_PEM_BYTES, TPM_KEY, take_apart
from quarterdeck_agent.settings import Settings
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import sync_folder, write_durable
from quarterdeck_shared.errors import RejectedError

NEW = ".new.pem"
SEAL_KEY = "seal.key"
_SEAL_BYTES = 32
_OWNER_ONLY, _OTHERS = 0o600, 0o077

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """A key with its certificate, and where they are."""

    key: DeviceKey
    certificate: Certificate
    certificate_file: Path
    key_file: Path


class IdentityFiles:
    """Reads and writes them. One writer at a time: whoever holds the state folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = settings.identity_file
        self._beside = self._file.with_name(self._file.stem + NEW)
        self._openssl = OpenSsl(settings.identity.openssl_conf or TPM_CONF)

    @property
    def file(self) -> Path:
        """Where the identity is."""
        return self._file

    @property
    def outside(self) -> Path | None:
        """The key that stays elsewhere; None when the agent keeps its keys itself."""
        path = self._settings.identity.key
        if path is None or self._first_blob() is not None:
            return None
        return path

    def fingerprint(self) -> tuple[object, ...]:
        """Return what differs when one of the files was changed."""
        named = (self._settings.enrolment.token, self._settings.identity.key)
        return tuple(_stamp(it) for it in (self._file, self._beside, *named) if it)

    def load(self) -> Identity | None:
        """Return the identity in use; None before there is one.

        Raises:
            RejectedError: ``KEY_UNUSABLE`` or ``CERTIFICATE_INVALID`` when it cannot be
                used, ``MALFORMED`` when it is no PEM.
        """
        return self._load(self._file)

    def load_new(self) -> Identity | None:
        """Return the identity that is to be tried; None when there is none."""
        return self._load(self._beside)

    def new_key(self, *, tpm: bool) -> DeviceKey:
        """Return the key to ask a certificate for: the one that was kept, or a new one.

        It is kept before it is told to anybody, so that a request whose answer was lost
        is repeated for the same key.

        Args:
            tpm: Make it in the TPM.

        Raises:
            RejectedError: ``KEY_UNUSABLE``.
            TransientError: The disk is full or failed.
        """
        if (outside := self.outside) is not None:
            return self._outside_key(outside)
        if (kept := self._kept_key(tpm=tpm)) is not None:
            return kept
        first = None if self._file.exists() else self._first_blob()
        made = first or make_key(tpm=tpm, openssl=self._openssl)
        self._write(self._beside, made)
        return load_key(made, self._openssl)

    def keep(self, chain: bytes, key: DeviceKey) -> Certificate:
        """Put ``chain`` beside, with the key it is of, once it is shown to be ours.

        Raises:
            RejectedError: ``TOO_LARGE``, ``MALFORMED`` or ``CERTIFICATE_INVALID``.
            TransientError: The disk is full or failed.
        """
        settings = self._settings
        certificate = verify_chain(
            chain,
            settings.broker.ca.read_bytes(),
            device=settings.device,
            device_class=settings.device_class,
            public=key.public,
        )
        kept = b""
        if self.outside is None:
            found = take_apart(self._read(self._beside) or b"").key
            if found is None:
                raise RejectedError(Code.KEY_UNUSABLE, f"{self._beside} is gone")
            kept = found
        self._write(self._beside, kept + take_apart(chain).chain)
        return certificate

    def promote(self) -> None:
        """Have the identity beside replace the one in use, in one step."""
        try:
            self._beside.replace(self._file)
            sync_folder(self._file.parent)
        except OSError as error:
            raise disk_error(error, self._file) from error

    def drop_new(self) -> None:
        """Forget what is beside: a key or a certificate that is of no use."""
        delete(self._beside)

    def seal_key(self) -> bytes:
        """Return the public half of the X25519 key, which is made when there is none.

        Raises:
            RejectedError: ``KEY_UNUSABLE`` when it is damaged.
            TransientError: The disk is full or failed.
        """
        path = self._settings.state / SEAL_KEY
        private = self._read(path)
        if private is None:
            private = X25519PrivateKey.generate().private_bytes_raw()
            self._write(path, private)
        if len(private) != _SEAL_BYTES:
            detail = f"{path}: {len(private)} bytes, not {_SEAL_BYTES}"
            raise RejectedError(Code.KEY_UNUSABLE, detail)
        key = X25519PrivateKey.from_private_bytes(private)
        return key.public_key().public_bytes_raw()

    def _load(self, path: Path) -> Identity | None:
        data = self._read(path)
        if data is None or not (pem := take_apart(data)).chain:
            return None
        _keep_to_owner(path)
        outside = self.outside
        key = self._outside_key(outside) if outside else load_key(data, self._openssl)
        certificate = read_leaf(pem.chain)
        if certificate.public != key.public:
            detail = f"{path}: the certificate is of another key"
            raise RejectedError(Code.KEY_UNUSABLE, detail)
        if certificate.device != self._settings.device:
            detail = f"{path} is of {certificate.device}, not {self._settings.device}"
            raise RejectedError(Code.CERTIFICATE_INVALID, detail)
        return Identity(key, certificate, path, outside or path)

    def _kept_key(self, *, tpm: bool) -> DeviceKey | None:
        """Return the key whose certificate was asked for and never came."""
        try:
            data = self._read(self._beside) or b""
            pem = take_apart(data)
            if pem.key is None or pem.chain:
                return None
            key = load_key(data, self._openssl)
        except RejectedError as error:
            log.warning("the key in %s is made anew: %s", self._beside, error)
            return None
        return key if key.in_tpm or not tpm else None

    def _first_blob(self) -> bytes | None:
        """Return the key that settings name, if it is a blob of the TPM."""
        path = self._settings.identity.key
        data = self._read(path) if path is not None else None
        if data is None or (pem := take_apart(data)).key_kind != TPM_KEY:
            return None
        return pem.key

    def _outside_key(self, path: Path) -> DeviceKey:
        data = self._read(path)
        if data is None:
            raise RejectedError(Code.KEY_UNUSABLE, f"{path}: there is no such file")
        try:
            return load_key(data, self._openssl)
        except RejectedError as error:
            raise RejectedError(error.code, f"{path}: {error.detail}") from error

    def _read(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                return file.read(MAX_PEM_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            detail = f"{path}: {error.strerror}"
            raise RejectedError(Code.KEY_UNUSABLE, detail) from error

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durable(path, data, mode=_OWNER_ONLY)
        except OSError as error:
            raise disk_error(error, path) from error


def _keep_to_owner(path: Path) -> None:
    """Take a file away from others, to whom a copy or a backup may have opened it."""
    try:
        if path.stat().st_mode & _OTHERS:
            path.chmod(_OWNER_ONLY)
            log.warning("event=identity_was_open %s could be read by others", path)
    except OSError as error:
        log.warning("event=identity_is_open %s: %s", path, error.strerror)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        told = path.stat()
    except OSError:
        return ()
    return told.st_ino, told.st_size, told.st_mtime_ns


def delete(path: Path) -> None:
    """Delete ``path``, so that it stays deleted; one that is not there is no error.

    A service manager's credential cannot be deleted, and ends with the service.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        log.info("%s stays: %s", path, error.strerror)
