"""New metadata before it is signed (pure): first versions and following ones."""

import copy
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.roles import (
    ISSUED_FIELD,
    KEY_ROLES,
    ROOT,
    ROOT_THRESHOLD,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    class_role,
    lifetime,
    pattern,
)
from quarterdeck_shared.index import digest

_Role = TypeVar("_Role", bound=Signed)


def first(
    keys: Mapping[str, Sequence[Key]], classes: Sequence[str], now: datetime
) -> dict[str, Root | Targets]:
    """Return the first version of every role but snapshot and timestamp.

    ``keys``: by role, every key that may sign for it.
    """
    delegated = (*KEY_ROLES, *(class_role(name) for name in classes))
    roles: dict[str, Root | Targets] = {ROOT: _first_root(keys, now)}
    roles[TARGETS] = Targets(
        expires=expiry(TARGETS, now),
        delegations=Delegations(
            {key.keyid: key for role in delegated for key in keys[role]},
            {role: delegation(role, keys[role]) for role in delegated},
        ),
    )
    return roles | {role: first_listing(role, now) for role in delegated}


def _first_root(keys: Mapping[str, Sequence[Key]], now: datetime) -> Root:
    root = Root(consistent_snapshot=True, expires=expiry(ROOT, now))
    for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP):
        for key in keys[role]:
            root.add_key(key, role)
    root.roles[ROOT].threshold = min(ROOT_THRESHOLD, len(keys[ROOT]))
    return root


def delegation(role: str, keys: Sequence[Key]) -> DelegatedRole:
    """Return how targets delegates to ``role``, one signature being enough."""
    ids = [key.keyid for key in keys]
    return DelegatedRole(role, ids, 1, terminating=True, paths=[pattern(role)])


def first_listing(role: str, now: datetime) -> Targets:
    """Return the first version of a delegated role, which lists nothing yet."""
    return Targets(expires=expiry(role, now))


def following(signed: _Role, role: str, now: datetime) -> _Role:
    """Return a copy to be signed as the following version."""
    copied = copy.deepcopy(signed)
    copied.version += 1
    copied.expires = expiry(role, now)
    return copied


def next_online(chain: Chain | None, now: datetime) -> tuple[Snapshot, Timestamp]:
    """Return the snapshot and timestamp that follow those in force, or the first."""
    if chain is None:
        timestamp = Timestamp(expires=expiry(TIMESTAMP, now))
        return Snapshot(expires=expiry(SNAPSHOT, now)), issued(timestamp, now)
    timestamp = following(chain.timestamp, TIMESTAMP, now)
    return following(chain.snapshot, SNAPSHOT, now), issued(timestamp, now)


def meta(signed: Signed, data: bytes) -> MetaFile:
    """Return how a snapshot or timestamp names ``data``, the file of ``signed``."""
    return MetaFile(signed.version, len(data), {"sha256": digest(data)})


def issued(timestamp: Timestamp, now: datetime) -> Timestamp:
    """Return ``timestamp`` with the time at which it is signed."""
    whole = now.astimezone(UTC).replace(microsecond=0)
    timestamp.unrecognized_fields[ISSUED_FIELD] = whole.strftime("%Y-%m-%dT%H:%M:%SZ")
    return timestamp


def expiry(role: str, now: datetime) -> datetime:
    """Return until when a signature of ``role`` made at ``now`` is valid."""
    return now.astimezone(UTC).replace(microsecond=0) + lifetime(role)
