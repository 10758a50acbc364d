"""The signed metadata that is in force, read from newest root to class roles.

Everything is verified on reading, by the same signatures that devices check: a damaged
or foreign file is noticed here before anything is signed on top of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

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

from quarterdeck_controller.release.roles import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    lifetime,
    role_class,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Read = Callable[[str], bytes | None]
_Role = TypeVar("_Role", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Chain:
    """One consistent state of the repository."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    delegated: Mapping[str, Targets]

    def signed(self) -> Mapping[str, Signed]:
        """Return every role's metadata by the role's name."""
        top: dict[str, Signed] = {
            ROOT: self.root,
            TARGETS: self.targets,
            SNAPSHOT: self.snapshot,
            TIMESTAMP: self.timestamp,
        }
        return {**top, **self.delegated}

    def keyids(self, role: str) -> tuple[str, ...]:
        """Return the ids of the keys that may sign for ``role``."""
        delegator = self.targets if role in self.delegated else self.root
        return tuple(delegator.get_delegated_role(role).keyids)

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
    except (RepositoryError, ValueError, KeyError) as error:
        raise RejectedError(
            Code.HOME_INVALID, f"the repository is damaged: {error}"
        ) from error


def _load(read: Read) -> Chain:
    root = _newest_root(read)
    timestamp = _role(read("timestamp.json"), Timestamp, root, TIMESTAMP)
    version = timestamp.snapshot_meta.version
    snapshot = _role(read(f"{version}.snapshot.json"), Snapshot, root, SNAPSHOT)
    version = snapshot.meta["targets.json"].version
    targets = _role(read(f"{version}.targets.json"), Targets, root, TARGETS)
    delegated = {}
    for name in targets.delegations.roles or () if targets.delegations else ():
        version = snapshot.meta[f"{name}.json"].version
        data = read(f"{version}.{name}.json")
        delegated[name] = _role(data, Targets, targets, name)
    return Chain(root, timestamp, snapshot, targets, delegated)


def _newest_root(read: Read) -> Root:
    version, newest = 1, read("1.root.json")
    while (following := read(f"{version + 1}.root.json")) is not None:
        version, newest = version + 1, following
    root = Metadata[Root].from_bytes(_present(newest, ROOT)).signed
    return _role(newest, Root, root, ROOT)


def _role(
    data: bytes | None, kind: type[_Role], delegator: Root | Targets, name: str
) -> _Role:
    metadata = Metadata[_Role].from_bytes(_present(data, name))
    if not isinstance(metadata.signed, kind):
        raise TypeError(f"{name} holds the metadata of another role")
    delegator.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    return metadata.signed


def _present(data: bytes | None, name: str) -> bytes:
    if data is None:
        raise ValueError(f"the file of {name} is missing")
    return data
