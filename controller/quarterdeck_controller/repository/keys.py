"""The signing keys in one folder, found by their ids.

A key is whatever ``securesystemslib`` calls a ``Signer``: a key file, or a key in a
token (``keyfile``). Names of files mean nothing to signing: signed metadata says by
id which keys may sign for a role.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, Signer

from quarterdeck_controller.repository.chain import Quorum
from quarterdeck_controller.repository.keyfile import KeyFile, Secrets, from_environment
from quarterdeck_controller.repository.roles import NAME_FIELD, ROOT
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """The keys that are on this machine. A key that is not may be elsewhere.

    Attributes:
        secrets: Asked for the passphrase of an encrypted key and the PIN of a token.
    """

    path: Path
    secrets: Secrets = from_environment

    def create(self, name: str) -> Key:
        """Make a new key that is not encrypted and return its public half.

        For roles that sign without anybody being asked.

        Raises:
            RejectedError: ``CONFLICT`` when there is a key of that name.
        """
        if self.file(name).exists():
            raise RejectedError(Code.CONFLICT, f"{self.file(name)} exists already")
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        signer = CryptoSigner.generate_ed25519()
        write_durable(self.file(name), signer.private_bytes, mode=0o600)
        signer.public_key.unrecognized_fields[NAME_FIELD] = name
        return signer.public_key

    def free_name(self, role: str) -> str:
        """Return a name for a further key of ``role`` that no file here has."""
        numbered = (f"{role}-{number}" for number in itertools.count(2))
        names = itertools.chain([] if role == ROOT else [role], numbered)
        return next(name for name in names if not self.file(name).exists())

    def file(self, name: str) -> Path:
        """Return where the key of that name is kept."""
        return self.path / f"{name}.pem"

    def signer(self, name: str) -> Signer:
        """Return the key of that name.

        Raises:
            RejectedError: ``NOT_FOUND``, ``KEY_INVALID`` or ``KEY_LOCKED`` when it
                cannot be used.
        """
        return KeyFile(self.file(name)).signer(self.secrets)

    def files(self) -> Iterator[KeyFile]:
        """Yield every key file that is here."""
        if self.path.is_dir():
            for path in sorted(self.path.iterdir()):
                if KeyFile.is_one(path):
                    yield KeyFile(path)

    def known(self) -> Mapping[str, KeyFile]:
        """Return the keys here by their ids; one that tells none is left out."""
        return {
            keyid: file for file in self.files() if (keyid := file.keyid()) is not None
        }

    def holding(self, quorum: Quorum) -> tuple[KeyFile, ...]:
        """Return the keys here that may sign for a role, as many as it needs."""
        known = self.known()
        here = [known[keyid] for keyid in quorum.keys if keyid in known]
        return tuple(here[: quorum.threshold])

    def signers(self, quorum: Quorum) -> tuple[Signer, ...]:
        """Return as many signers as the role of ``quorum`` needs.

        Raises:
            RejectedError: ``NOT_ALLOWED`` when too few keys are here, ``HOME_INVALID``
                when the file that is named like the role holds another key or none.
        """
        here = self.holding(quorum)
        if len(here) < quorum.threshold:
            raise self._too_few(quorum, len(here))
        return tuple(file.signer(self.secrets) for file in here)

    def _too_few(self, quorum: Quorum, here: int) -> RejectedError:
        role, wanted = quorum.role, ", ".join(key[:12] for key in quorum.keys)
        named = KeyFile(self.file(role))
        if named.path.is_file():
            return RejectedError(
                Code.HOME_INVALID,
                f"{named.path} holds the key {(named.keyid() or 'unknown')[:12]}, "
                f"{role} is signed by {wanted}",
            )
        return RejectedError(
            Code.NOT_ALLOWED,
            f"signing for {role} needs {quorum.threshold} of the keys {wanted}; "
            f"{here} are in {self.path}",
        )
