"""Signing keys in files: Ed25519, PKCS8 PEM, readable by the owner only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key, Signer

from quarterdeck_controller.release.roles import key_names, threshold
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """The keys that are on this machine. A key that is not may be elsewhere."""

    path: Path

    def create(self, name: str) -> Key:
        """Make a new key and return its public half.

        Raises:
            RejectedError: ``CONFLICT`` when there is a key of that name.
        """
        if self.file(name).exists():
            raise RejectedError(Code.CONFLICT, f"{self.file(name)} exists already")
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        signer = CryptoSigner.generate_ed25519()
        write_durable(self.file(name), signer.private_bytes, mode=0o600)
        return signer.public_key

    def file(self, name: str) -> Path:
        """Return where the key of that name is kept."""
        return self.path / f"{name}.pem"

    def holds(self, role: str) -> bool:
        """Return whether enough keys are here to sign for ``role``."""
        here = [name for name in key_names(role) if self.file(name).is_file()]
        return len(here) >= threshold(role)

    def signers(
        self, role: str, *, among: Sequence[str] | None = None
    ) -> tuple[Signer, ...]:
        """Return as many signers as ``role`` needs.

        Raises:
            RejectedError: ``NOT_ALLOWED`` when too few keys are here, and
                ``HOME_INVALID`` when one cannot be read or is not ``among`` the keys
                that may sign for the role.
        """
        here = [name for name in key_names(role) if self.file(name).is_file()]
        need = threshold(role)
        if len(here) < need:
            raise RejectedError(
                Code.NOT_ALLOWED,
                f"signing for {role} needs {need} of the keys "
                f"{', '.join(key_names(role))}; {len(here)} are in {self.path}",
            )
        signers = {name: self._signer(name) for name in here[:need]}
        for name, signer in signers.items():
            if among is not None and signer.public_key.keyid not in among:
                raise RejectedError(
                    Code.HOME_INVALID,
                    f"{self.file(name)} holds the key {signer.public_key.keyid[:12]}, "
                    f"{role} is signed by {', '.join(key[:12] for key in among)}",
                )
        return tuple(signers.values())

    def _signer(self, name: str) -> Signer:
        try:
            key = load_pem_private_key(self.file(name).read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RejectedError(
                Code.HOME_INVALID, f"{self.file(name)} cannot be read: {error}"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise RejectedError(
                Code.HOME_INVALID, f"{self.file(name)} is not an Ed25519 key"
            )
        return CryptoSigner(key)
