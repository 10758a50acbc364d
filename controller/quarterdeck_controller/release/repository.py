"""The signed repository as devices fetch it (PROTOCOL.md section 5).

Files of new versions are written first and the timestamp last, each durably: until the
timestamp is replaced nothing leads to the new files, so a crash at any moment leaves
the old state in force, and what it left behind is overwritten by the next change.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.chain import Chain, due, load
from quarterdeck_controller.release.keys import KeyFolder
from quarterdeck_controller.release.lock import exclusive
from quarterdeck_controller.release.roles import (
    DIRECTOR,
    ISSUED_FIELD,
    ROOT,
    ROOT_KEYS,
    ROOT_THRESHOLD,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    class_pattern,
    class_role,
    lifetime,
)
from quarterdeck_shared.assignment import Target
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import MAX_INDEX_BYTES, Index, digest, target_path

LOCK_WAIT_S = 10.0
_NAME = r"[a-z0-9-]{1,64}"
_SERVED = re.compile(
    r"timestamp\.json"
    rf"|[1-9][0-9]{{0,9}}\.(root|snapshot|targets|{DIRECTOR}|class-{_NAME})\.json"
    rf"|targets/classes/{_NAME}/[0-9a-f]{{64}}\.[a-z0-9-]{{1,80}}\.idx"
)
_COMPACT = JSONSerializer(compact=True)

_Role = TypeVar("_Role", Root, Timestamp, Snapshot, Targets)
Write = Callable[[Path, bytes], None]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What was signed again, and what waits for a key that is not on this machine."""

    renewed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class Repository:
    """Reads and changes the signed repository of one fleet home.

    Args:
        write: How a file is replaced; tests interrupt it.
    """

    def __init__(
        self, home: Home, clock: Clock, *, write: Write = write_durable
    ) -> None:
        self._folder = home.repository
        self._keys = KeyFolder(home.keys)
        self._clock = clock
        self._write = write

    @classmethod
    def create(cls, home: Home, classes: Sequence[str], clock: Clock) -> "Repository":
        """Make the keys and the first version of every role."""
        repository = cls(home, clock)
        home.repository.mkdir(parents=True, exist_ok=True)
        now = clock.now()
        keys = KeyFolder(home.keys)
        repository._put(ROOT, _first_root(keys, now))
        delegated = (DIRECTOR, *(class_role(name) for name in classes))
        empty = {name: Targets(expires=_expiry(name, now)) for name in delegated}
        changed = {TARGETS: _first_targets(keys, classes, now), **empty}
        repository._commit(
            changed,
            Snapshot(expires=_expiry(SNAPSHOT, now)),
            _issued(Timestamp(expires=_expiry(TIMESTAMP, now)), now),
        )
        return repository

    def exclusive(self, wait_s: float = LOCK_WAIT_S) -> AbstractContextManager[None]:
        """Hold the repository for a change that begins with a reading.

        Raises:
            TransientError: ``CONFLICT`` when another process holds it too long.
        """
        return exclusive(self._folder / "lock", wait_s=wait_s)

    def chain(self) -> Chain:
        """Return the metadata in force.

        Raises:
            RejectedError: ``HOME_INVALID`` when it is damaged.
        """
        return load(self.read)

    def read(self, name: str) -> bytes | None:
        """Return the file that a device asks for by ``name``, or None."""
        if not _SERVED.fullmatch(name):
            return None
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def timestamp(self) -> bytes:
        """Return the newest signed timestamp."""
        return (self._folder / "timestamp.json").read_bytes()

    def newest_root(self) -> bytes:
        """Return the newest signed root, the trust anchor of a new device."""
        version = self.chain().root.version
        return (self._folder / f"{version}.root.json").read_bytes()

    def publish(
        self, listed: Sequence[tuple[Index, Mapping[str, str | int]]]
    ) -> tuple[Target, ...]:
        """List indexes in their class roles, in one step that all see or none.

        The caller holds ``exclusive``. What is beside each index is signed with it.

        Raises:
            RejectedError: ``TOO_LARGE`` for an index, ``NOT_FOUND`` for a class without
                a role, ``NOT_ALLOWED`` when a key is not here, ``HOME_INVALID`` when
                it is not the role's.
        """
        chain, now = self.chain(), self._clock.now()
        changed: dict[str, Targets] = {}
        targets, files = [], []
        for index, custom in listed:
            name = class_role(index.device_class)
            if name not in chain.delegated:
                raise RejectedError(
                    Code.NOT_FOUND, f"class {index.device_class} has no signing role"
                )
            data = index.encode()
            target = _target(index, data)
            role = changed.setdefault(name, _next(chain.delegated[name], name, now))
            role.targets[target.path] = _listing(target, custom)
            targets.append(target)
            files.append((target, data))
        self._check_keys(chain, (*changed, SNAPSHOT, TIMESTAMP))
        for target, data in files:
            self._put_index(target, data)
        self._commit(changed, *_next_online(chain, now))
        return tuple(targets)

    def renew(self, now: datetime) -> Renewal:
        """Sign again every role of which half of the validity is over.

        Raises:
            TransientError: ``CONFLICT`` when another process holds the repository.
        """
        if not due(self.chain(), now):
            return Renewal()
        with self.exclusive():
            chain = self.chain()
            roles = due(chain, now)
            able = tuple(role for role in roles if self._keys.holds(role))
            self._check_keys(chain, able)
            self._renew(chain, able, now)
            waiting = tuple(role for role in roles if role not in able)
            return Renewal(able, waiting)

    def _check_keys(self, chain: Chain, roles: Sequence[str]) -> None:
        # Before anything is written: what a foreign key signed would lock devices out.
        for role in roles:
            self._keys.signers(role, among=chain.keyids(role))

    def _renew(self, chain: Chain, roles: Sequence[str], now: datetime) -> None:
        if ROOT in roles:
            self._put(ROOT, _next(chain.root, ROOT, now))
        listing = {TARGETS: chain.targets, **chain.delegated}
        changed = {
            role: _next(signed, role, now)
            for role, signed in listing.items()
            if role in roles
        }
        snapshot, timestamp = _next_online(chain, now)
        if changed or SNAPSHOT in roles:
            self._commit(changed, snapshot, timestamp)
        elif TIMESTAMP in roles:
            self._put(TIMESTAMP, timestamp)

    def _commit(
        self, changed: Mapping[str, Targets], snapshot: Snapshot, timestamp: Timestamp
    ) -> None:
        for role, signed in changed.items():
            snapshot.meta[f"{role}.json"] = _meta(signed, self._put(role, signed))
        timestamp.snapshot_meta = _meta(snapshot, self._put(SNAPSHOT, snapshot))
        self._put(TIMESTAMP, timestamp)

    def _put(self, role: str, signed: _Role) -> bytes:
        metadata = Metadata[_Role](signed)
        for signer in self._keys.signers(role):
            metadata.sign(signer, append=True)
        data = metadata.to_bytes(_COMPACT)
        prefix = "" if role == TIMESTAMP else f"{signed.version}."
        self._write(self._folder / f"{prefix}{role}.json", data)
        return data

    def _put_index(self, target: Target, data: bytes) -> None:
        folder, _, name = target.path.rpartition("/")
        file = self._folder / "targets" / folder / f"{target.sha256}.{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        self._write(file, data)


def _first_root(keys: KeyFolder, now: datetime) -> Root:
    root = Root(consistent_snapshot=True, expires=_expiry(ROOT, now))
    for name in ROOT_KEYS:
        root.add_key(keys.create(name), ROOT)
    root.roles[ROOT].threshold = ROOT_THRESHOLD
    for role in (TARGETS, SNAPSHOT, TIMESTAMP):
        root.add_key(keys.create(role), role)
    return root


def _first_targets(keys: KeyFolder, classes: Sequence[str], now: datetime) -> Targets:
    # The director's paths match no target: TUF carries its key, and it lists nothing.
    paths = {DIRECTOR: "assignments/*"}
    paths |= {class_role(name): class_pattern(name) for name in classes}
    publics = {role: keys.create(role) for role in paths}
    roles = {
        role: DelegatedRole(
            role, [publics[role].keyid], 1, terminating=True, paths=[paths[role]]
        )
        for role in paths
    }
    known = {public.keyid: public for public in publics.values()}
    delegations = Delegations(known, roles)
    return Targets(expires=_expiry(TARGETS, now), delegations=delegations)


def _next(signed: _Role, role: str, now: datetime) -> _Role:
    """Return a copy to be signed as the following version."""
    following = copy.deepcopy(signed)
    following.version += 1
    following.expires = _expiry(role, now)
    return following


def _next_online(chain: Chain, now: datetime) -> tuple[Snapshot, Timestamp]:
    timestamp = _issued(_next(chain.timestamp, TIMESTAMP, now), now)
    return _next(chain.snapshot, SNAPSHOT, now), timestamp


def _issued(timestamp: Timestamp, now: datetime) -> Timestamp:
    whole = now.astimezone(UTC).replace(microsecond=0)
    timestamp.unrecognized_fields[ISSUED_FIELD] = whole.strftime("%Y-%m-%dT%H:%M:%SZ")
    return timestamp


def _expiry(role: str, now: datetime) -> datetime:
    return now.astimezone(UTC).replace(microsecond=0) + lifetime(role)


def _meta(signed: Snapshot | Targets, data: bytes) -> MetaFile:
    return MetaFile(signed.version, len(data), {"sha256": digest(data)})


def _target(index: Index, data: bytes) -> Target:
    if len(data) > MAX_INDEX_BYTES:
        raise RejectedError(
            Code.TOO_LARGE,
            f"the index of {index.model}-{index.version} for {index.device_class} has "
            f"{len(data)} bytes, at most {MAX_INDEX_BYTES} are allowed; larger chunks "
            "(chunk_bytes in settings.toml) make it shorter",
        )
    path = target_path(index.device_class, index.model, index.version)
    return Target(path=path, length=len(data), sha256=digest(data))


def _listing(target: Target, custom: Mapping[str, str | int]) -> TargetFile:
    return TargetFile(
        target.length,
        {"sha256": target.sha256},
        target.path,
        unrecognized_fields={"custom": dict(custom)},
    )
