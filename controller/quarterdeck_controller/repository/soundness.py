"""Refuse metadata that this software would never make (pure).

A signer is shown what a change does (``describe``). What that cannot say must not be
in it: another form of delegation, a key under a foreign id, a path of another class.
"""

from collections.abc import Iterable, Mapping

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed, Targets

from quarterdeck_controller.repository.changes import MAX_KEYS
from quarterdeck_controller.repository.keyfile import canonical
from quarterdeck_controller.repository.roles import (
    NAME_FIELD,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    class_role,
    is_delegated,
    pattern,
    role_class,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

_TOP = frozenset({ROOT, TARGETS, SNAPSHOT, TIMESTAMP})


def check_sound(role: str, new: Signed) -> None:
    """Refuse ``new`` as metadata of ``role`` unless it is of the form that we make.

    Raises:
        RejectedError: ``METADATA_INVALID`` with what is odd.
    """
    if role == ROOT:
        _check(isinstance(new, Root), role, f"it is a {new.type}")
        assert isinstance(new, Root)
        _check_root(new)
        return
    _check(isinstance(new, Targets), role, f"it is a {new.type}")
    assert isinstance(new, Targets)
    if role == TARGETS:
        _check_targets(new)
        return
    _check(is_delegated(role), role, "there is no such role")
    _check_listing(role, new)


def _check_root(root: Root) -> None:
    _check(root.consistent_snapshot is True, ROOT, "no consistent snapshots")
    _check(set(root.roles) == _TOP, ROOT, f"its roles are {', '.join(root.roles)}")
    used: set[str] = set()
    for role, it in root.roles.items():
        _check(not it.unrecognized_fields, ROOT, f"{role} has unknown fields")
        _check_count(ROOT, role, it.keyids, it.threshold)
        used |= set(it.keyids)
    _check_keys(ROOT, root.keys, used)


def _check_targets(targets: Targets) -> None:
    _check(not targets.targets, TARGETS, "it lists targets itself")
    delegations = targets.delegations
    _check(delegations is not None, TARGETS, "it delegates to nobody")
    assert delegations is not None
    _check(delegations.succinct_roles is None, TARGETS, "it has succinct roles")
    _check(not delegations.unrecognized_fields, TARGETS, "it has unknown fields")
    used: set[str] = set()
    for name, it in (delegations.roles or {}).items():
        known = is_delegated(name) and is_name(role_class(name) or name)
        _check(known, TARGETS, f"it delegates to {name}")
        _check(it.name == name and it.terminating, TARGETS, f"{name} is not ended")
        _check(it.paths == [pattern(name)], TARGETS, f"{name} may list {it.paths}")
        _check(not it.unrecognized_fields, TARGETS, f"{name} has unknown fields")
        _check_count(TARGETS, name, it.keyids, it.threshold)
        used |= set(it.keyids)
    _check_keys(TARGETS, delegations.keys, used)


def _check_listing(role: str, listing: Targets) -> None:
    _check(listing.delegations is None, role, "it delegates")
    device_class = role_class(role)
    if device_class is None:
        _check(not listing.targets, role, "it lists targets")
        return
    folder = pattern(class_role(device_class)).removesuffix("*")
    for path, file in listing.targets.items():
        inside = path.startswith(folder) and "/" not in path.removeprefix(folder)
        _check(inside and file.path == path, role, f"it lists {path}")
        _check(set(file.hashes) == {"sha256"}, role, f"{path} has no sha256 alone")


def _check_count(where: str, role: str, keyids: Iterable[str], threshold: int) -> None:
    count = len(set(keyids))
    _check(
        1 <= threshold <= count <= MAX_KEYS,
        where,
        f"{role} would be signed by {threshold} of {count} keys",
    )


def _check_keys(where: str, keys: Mapping[str, Key], used: set[str]) -> None:
    _check(set(keys) == used, where, "it holds keys that no role uses, or lacks some")
    for keyid, key in keys.items():
        described = key.to_dict()
        name = described.pop(NAME_FIELD, "")
        own = canonical(described, f"{where}: the key {keyid[:12]}")
        _check(own.keyid == keyid, where, f"the key {own.keyid[:12]} is not {keyid}")
        _check(own.to_dict() == described, where, f"{keyid[:12]} has unknown fields")
        _check(
            isinstance(name, str) and name.isprintable() and len(name) <= MAX_NAME,
            where,
            f"the key {keyid[:12]} has an odd name",
        )


MAX_NAME = 64


def _check(condition: bool, role: str, odd: str) -> None:
    if not condition:
        raise RejectedError(Code.METADATA_INVALID, f"the new {role} is odd: {odd}")
