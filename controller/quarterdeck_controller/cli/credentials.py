"""The credential that an operator gives on the command line, and where it is kept.

In this order: ``--token-file`` or ``--identity``, ``QUARTERDECK_TOKEN``, and what
``operator login`` keeps for this home in ``~/.config/quarterdeck/tokens``.
"""

import hashlib
import os
import pwd
import secrets
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from quarterdeck_controller.access.authenticate import (
    CHALLENGE_BYTES,
    Answer,
    Credential,
    Token,
    signed_bytes,
)
from quarterdeck_controller.cli.options import GIVEN, Given
from quarterdeck_controller.home import Home
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError

VARIABLE = "QUARTERDECK_TOKEN"
_MAX_FILE_BYTES = 64 * 1024


def find(home: Home) -> Credential | None:
    """Return the credential for ``home``; None when there is none.

    Raises:
        RejectedError: ``UNAUTHENTICATED`` for a file that cannot be used, or that
            others may read.
    """
    given = GIVEN.get() or Given()
    if given.token_file is not None and given.identity is not None:
        raise RejectedError(
            Code.UNAUTHENTICATED, "a token and a certificate were given: give one"
        )
    if given.token is not None:
        return Token(given.token)
    if given.token_file is not None:
        return Token(_read(given.token_file).strip())
    if given.identity is not None:
        return answer(given.identity)
    if text := os.environ.get(VARIABLE, "").strip():
        return Token(text)
    kept = kept_file(home)
    return Token(_read(kept).strip()) if kept.is_file() else None


def kept_file(home: Home) -> Path:
    """Return where this user's token for ``home`` is kept."""
    configuration = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    name = hashlib.sha256(os.fsencode(home.path.resolve())).hexdigest()[:16]
    return Path(configuration).expanduser() / "quarterdeck" / "tokens" / name


def keep(home: Home, token: str) -> Path:
    """Keep this user's token for ``home``, and return where."""
    file = kept_file(home)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durable(file, f"{token}\n".encode(), mode=0o600)
    return file


def forget(home: Home) -> bool:
    """Forget this user's token for ``home``; return whether there was one."""
    file = kept_file(home)
    was_there = file.is_file()
    file.unlink(missing_ok=True)
    return was_there


def answer(identity: Path) -> Answer:
    """Return the proof that we hold the key of the certificate in ``identity``.

    Raises:
        RejectedError: ``UNAUTHENTICATED``.
    """
    data, challenge = _read(identity).encode(), secrets.token_bytes(CHALLENGE_BYTES)
    try:
        certificate = x509.load_pem_x509_certificate(data)
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(
            identity, f"it holds no certificate and key: {error}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(identity, "its key is not of an elliptic curve")
    signature = key.sign(signed_bytes(challenge), ec.ECDSA(hashes.SHA256()))
    return Answer(certificate, challenge, signature)


def local_user() -> str:
    """Return who is logged in, as the machine knows them."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def owns(home: Home) -> bool:
    """Return whether whoever is logged in owns the files of ``home``."""
    user = os.geteuid()
    return user in {0, home.settings_file.stat().st_uid}


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if mode & stat.S_IRWXO:
                raise _unusable(file, f"others may read it (mode {mode:o}): chmod 600")
            data = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unusable(file, str(error.strerror)) from error
    if len(data) > _MAX_FILE_BYTES:
        raise _unusable(file, f"it has more than {_MAX_FILE_BYTES} bytes")
    return data.decode("utf-8", "replace")


def _unusable(file: Path, why: str) -> RejectedError:
    return RejectedError(Code.UNAUTHENTICATED, f"{file}: {why}")
