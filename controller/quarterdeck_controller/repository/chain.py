"""The signed metadata that is in force, read from the first root to class roles.

Everything is verified on reading, by the same signatures that devices check: a damaged
or foreign file is noticed here before anything is signed on top of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from quarterdeck_controller.repository.roles import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    is_delegated,
    lifetime,
    role_class,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Read = Callable[[str], bytes | None]
_Role = TypeVar("_Role", Root, Timestamp, Snapshot, Targets)

MAX_ROOTS = 1024


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who may sign for a role, and how many of them must."""

    role: str
    keys: Mapping[str, Key]
    threshold: int

    def signed_by(
        self, payload: bytes, signatures: Mapping[str, Signature]
    ) -> tuple[str, ...]:
        """Return the ids of the keys whose signature over ``payload`` is there."""
        found = []
        for keyid, key in self.keys.items():
            try:
                key.verify_signature(signatures[keyid], payload)
            except (KeyError, UnverifiedSignatureError):
                continue
            found.append(keyid)
        return tuple(found)

    def is_met(self, metadata: Metadata[Any]) -> bool:
        """Return whether enough of the keys signed ``metadata``."""
        signed_by = self.signed_by(metadata.signed_bytes, metadata.signatures)
        return len(signed_by) >= self.threshold


def quorum(role: str, delegator: Root | Targets) -> Quorum:
    """Return who may sign for ``role`` as ``delegator`` says.

    Raises:
        RejectedError: ``NOT_FOUND`` when the delegator knows no such role.
    """
    try:
        delegated = delegator.get_delegated_role(role)
    except ValueError as error:
        raise RejectedError(
            Code.NOT_FOUND, f"the fleet has no signing role {role}"
        ) from error
    keys = {keyid: delegator.get_key(keyid) for keyid in delegated.keyids}
    return Quorum(role, keys, delegated.threshold)


@dataclass(frozen=True, slots=True)
class Chain:
    """One consistent state of the repository.

    Attributes:
        files: Every role's metadata with its signatures, by the role's name.
    """

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    delegated: Mapping[str, Targets]
    files: Mapping[str, Metadata[Any]]

    def signed(self) -> Mapping[str, Signed]:
        """Return every role's metadata by the role's name."""
        top: dict[str, Signed] = {
            ROOT: self.root,
            TARGETS: self.targets,
            SNAPSHOT: self.snapshot,
            TIMESTAMP: self.timestamp,
        }
        return {**top, **self.delegated}

    def quorum(self, role: str) -> Quorum:
        """Return who may sign for ``role``.

        Raises:
            RejectedError: ``NOT_FOUND`` when there is no such role.
        """
        return quorum(role, self.targets if is_delegated(role) else self.root)

    def file_names(self) -> tuple[str, ...]:
        """Return the names of all files that lead here from the first root."""
        roots = (f"{it}.root.json" for it in range(1, self.root.version + 1))
        others = (
            f"{signed.version}.{role}.json"
            for role, signed in self.signed().items()
            if role not in (ROOT, TIMESTAMP)
        )
        return (*roots, "timestamp.json", *others)

    def keyids(self, role: str) -> tuple[str, ...]:
        """Return the ids of the keys that may sign for ``role``."""
        return tuple(self.quorum(role).keys)

    def listed(self) -> Mapping[str, TargetFile]:
        """Return every target that a class role lists, by its path."""
        classes = (self.delegated[name] for name in self.delegated if role_class(name))
        return {path: file for role in classes for path, file in role.targets.items()}


def due(chain: Chain, now: datetime) -> tuple[str, ...]:
    """Return the roles of which half of the validity is over at ``now``."""
    return tuple(
        role
        for role, signed in chain.signed().items()
        if now >= signed.expires - lifetime(role) / 2
    )


def load(read: Read) -> Chain:
    """Return the metadata in force.

    Raises:
        RejectedError: ``HOME_INVALID`` when a file is missing, damaged or not signed
            by the keys of its role.
    """
    try:
        return _load(read)
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        raise RejectedError(
            Code.HOME_INVALID, f"the repository is damaged: {error}"
        ) from error


def _load(read: Read) -> Chain:
    files: dict[str, Metadata[Any]] = {ROOT: _newest_root(read)}
    root: Root = files[ROOT].signed

    def role(name: str, version: int, kind: type[_Role]) -> _Role:
        delegator = files[TARGETS].signed if is_delegated(name) else root
        file = "timestamp.json" if name == TIMESTAMP else f"{version}.{name}.json"
        data = read(file)
        files[name] = _verified(data, kind, delegator, name)
        signed: _Role = files[name].signed
        return signed

    timestamp = role(TIMESTAMP, 0, Timestamp)
    snapshot = role(SNAPSHOT, timestamp.snapshot_meta.version, Snapshot)
    targets = role(TARGETS, snapshot.meta["targets.json"].version, Targets)
    names = targets.delegations.roles or () if targets.delegations else ()
    delegated = {
        name: role(name, snapshot.meta[f"{name}.json"].version, Targets)
        for name in names
    }
    return Chain(root, timestamp, snapshot, targets, delegated, files)


def _newest_root(read: Read) -> Metadata[Root]:
    """Return the newest root; each was signed by those of the one before it."""
    data = _present(read("1.root.json"), ROOT)
    trusted = Metadata[Root].from_bytes(data).signed
    newest = _verified(data, Root, trusted, ROOT)
    for version in range(2, MAX_ROOTS):
        following = read(f"{version}.root.json")
        if following is None:
            break
        offered = _verified(following, Root, newest.signed, ROOT)
        offered.signed.verify_delegate(ROOT, offered.signed_bytes, offered.signatures)
        if offered.signed.version != version:
            raise ValueError(f"{version}.root.json says {offered.signed.version}")
        newest = offered
    return newest


def _verified(
    data: bytes | None, kind: type[_Role], delegator: Root | Targets, name: str
) -> Metadata[_Role]:
    metadata: Metadata[Any] = Metadata.from_bytes(_present(data, name))
    if not isinstance(metadata.signed, kind):
        raise TypeError(f"{name} holds the metadata of another role")
    delegator.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    return metadata


def _present(data: bytes | None, name: str) -> bytes:
    if data is None:
        raise ValueError(f"the file of {name} is missing")
    return data
