"""The ``openssl`` program, for private keys that only one of its providers can use.

Keys go to it through memory, never through its arguments or a file of ours; what comes
out of a TPM is a blob that means nothing without that TPM.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_agent.identity.pem import TPM_KEY, take_apart
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

TPM_CONF = Path(__file__).with_name("tpm.cnf")
TIMEOUT_S = 60.0
"""A TPM of a cheap board makes a key in seconds."""
_LAST_WORDS = 200


@dataclass(frozen=True, slots=True)
class OpenSsl:
    """The program with the configuration that brings the provider.

    Attributes:
        program: Its path, or a name to look for.
    """

    conf: Path = TPM_CONF
    program: str = "openssl"

    def make_key(self) -> bytes:
        """Return a new P-256 key of the TPM, PEM.

        Raises:
            RejectedError: ``KEY_UNUSABLE``: there is no program, or no TPM.
        """
        made = self._run(
            "genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "group:P-256"
        )
        # Without a TPM OpenSSL falls back to making a key of its own, unasked.
        if take_apart(made).key_kind != TPM_KEY:
            detail = "OpenSSL made a key outside of the TPM: it did not find the TPM"
            raise RejectedError(Code.KEY_UNUSABLE, detail)
        return made

    def public_key(self, key: bytes) -> bytes:
        """Return the public half of ``key`` (PEM) as SubjectPublicKeyInfo, DER.

        Raises:
            RejectedError: ``KEY_UNUSABLE``.
        """
        return self._run("pkey", "-pubout", "-outform", "DER", given=key)

    def sign(self, key: bytes, data: bytes) -> bytes:
        """Return the ECDSA signature with SHA-256 of ``key`` over ``data``, DER.

        Raises:
            RejectedError: ``KEY_UNUSABLE``.
        """
        handle = os.memfd_create("key", os.MFD_CLOEXEC)
        try:
            os.write(handle, key)
            path = f"/dev/fd/{handle}"
            return self._run(
                "dgst", "-sha256", "-sign", path, given=data, handles=(handle,)
            )
        finally:
            os.close(handle)

    def _run(
        self, *arguments: str, given: bytes = b"", handles: Sequence[int] = ()
    ) -> bytes:
        command = [self.program, *arguments]
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                check=False,
                timeout=TIMEOUT_S,
                pass_fds=handles,
                env={**os.environ, "OPENSSL_CONF": str(self.conf)},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            detail = f"the program {self.program} cannot be run: {error}"
            raise RejectedError(Code.KEY_UNUSABLE, detail) from error
        if done.returncode != 0 or not done.stdout:
            told = done.stderr.decode(errors="replace").strip()[-_LAST_WORDS:]
            detail = f"{self.program} {arguments[0]}: {told or 'no output'}"
            raise RejectedError(Code.KEY_UNUSABLE, detail)
        return done.stdout
