"""Change who may sign for what (pure): from the chain in force to new metadata.

Root names the keys of the top roles, targets those of the classes and key roles. A
role whose metadata would no longer be signed by enough of its new keys becomes a new
version too, so that what is in force afterwards can be verified from the root on.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed, Targets

from quarterdeck_controller.repository.chain import Chain, Quorum, quorum
from quarterdeck_controller.repository.drafts import (
    delegation,
    first_listing,
    following,
)
from quarterdeck_controller.repository.keyfile import key_name
from quarterdeck_controller.repository.roles import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    class_role,
    is_delegated,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_KEYS = 16
"""Of one role; more are no safer, and every device verifies them."""


@dataclass(frozen=True, slots=True)
class Signers:
    """Who shall sign for a role from now on."""

    keys: Sequence[Key]
    threshold: int


def rotated(chain: Chain, role: str, keys: Sequence[Key]) -> Signers:
    """Return new keys for ``role`` in place of all it has, the threshold unchanged.

    Raises:
        RejectedError: ``NOT_ALLOWED`` when they are too few or one is there already.
    """
    now = chain.quorum(role)
    same = [key_name(key) for key in keys if key.keyid in now.keys]
    if same:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"{', '.join(same)} signs for {role} already; a rotation replaces all its "
            "keys (key add and key revoke change one)",
        )
    return Signers(keys, now.threshold)


def with_key(chain: Chain, role: str, key: Key) -> Signers:
    """Return the keys of ``role`` and one more.

    Raises:
        RejectedError: ``CONFLICT`` when it has that key.
    """
    now = chain.quorum(role)
    if key.keyid in now.keys:
        raise RejectedError(
            Code.CONFLICT,
            f"the key {key_name(now.keys[key.keyid])} signs for {role} already",
        )
    return Signers((*now.keys.values(), key), now.threshold)


def without_key(chain: Chain, role: str, keyid: str) -> Signers:
    """Return the keys of ``role`` without the one whose id or name ``keyid`` begins.

    Raises:
        RejectedError: ``NOT_FOUND`` when it has none or several such.
    """
    now = chain.quorum(role)
    gone = matching(now, keyid)
    kept = [key for key in now.keys.values() if key.keyid != gone.keyid]
    return Signers(kept, now.threshold)


def matching(keys: Quorum, wanted: str) -> Key:
    """Return the key whose name is ``wanted`` or whose id begins so.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is none or several.
    """
    plain = wanted.replace("-", "")
    found = [
        key
        for key in keys.keys.values()
        if key_name(key) == wanted or (plain and key.keyid.startswith(plain))
    ]
    if len(found) != 1:
        known = ", ".join(f"{key_name(k)} ({k.keyid[:8]})" for k in keys.keys.values())
        raise RejectedError(
            Code.NOT_FOUND, f"{wanted} is not one key of {keys.role}; it has: {known}"
        )
    return found[0]


def with_threshold(chain: Chain, role: str, threshold: int) -> Signers:
    """Return the keys of ``role`` of which ``threshold`` must sign from now on.

    Raises:
        RejectedError: ``CONFLICT`` when it is so already.
    """
    now = chain.quorum(role)
    if threshold == now.threshold:
        raise RejectedError(
            Code.CONFLICT, f"{role} is signed by {threshold} of {len(now.keys)} already"
        )
    return Signers(tuple(now.keys.values()), threshold)


def change_signers(
    chain: Chain, wanted: Mapping[str, Signers], now: datetime
) -> dict[str, Signed]:
    """Return the new metadata that makes ``wanted`` true, by role.

    Raises:
        RejectedError: ``NOT_ALLOWED`` for a threshold that the keys cannot meet,
            ``NOT_FOUND`` for a role that there is not.
    """
    changed: dict[str, Signed] = {}
    for role, signers in wanted.items():
        _check(role, signers)
        delegator = TARGETS if is_delegated(role) else ROOT
        if delegator not in changed:
            changed[delegator] = following(chain.signed()[delegator], delegator, now)
        _set(changed[delegator], chain.quorum(role), signers)
    return changed | _dependents(chain, changed, now)


def add_class(
    chain: Chain, device_class: str, keys: Sequence[Key], now: datetime
) -> dict[str, Signed]:
    """Return the new metadata that gives a class its signing role.

    Raises:
        RejectedError: ``CONFLICT`` when it has one, ``NOT_ALLOWED`` without a key.
    """
    role = class_role(device_class)
    if role in chain.delegated:
        raise RejectedError(Code.CONFLICT, f"the class {device_class} has a role")
    _check(role, Signers(keys, 1))
    targets = following(chain.targets, TARGETS, now)
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[role] = delegation(role, keys)
    targets.delegations.keys.update({key.keyid: copy.deepcopy(key) for key in keys})
    return {TARGETS: targets, role: first_listing(role, now)}


def _check(role: str, signers: Signers) -> None:
    count = len({key.keyid for key in signers.keys})
    if count != len(signers.keys):
        raise RejectedError(Code.NOT_ALLOWED, f"a key of {role} is given twice")
    if not 1 <= signers.threshold <= count <= MAX_KEYS:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"{role} would be signed by {signers.threshold} of {count} keys; from 1 "
            f"to {MAX_KEYS} keys are possible, and no more signatures than keys",
        )


def _set(delegator: Signed, now: Quorum, signers: Signers) -> None:
    assert isinstance(delegator, Root | Targets)
    kept = {key.keyid for key in signers.keys}
    for key in signers.keys:
        delegator.add_key(copy.deepcopy(key), now.role)
    for keyid in now.keys:
        if keyid not in kept:
            delegator.revoke_key(keyid, now.role)
    delegator.get_delegated_role(now.role).threshold = signers.threshold


def _dependents(
    chain: Chain, changed: Mapping[str, Signed], now: datetime
) -> dict[str, Signed]:
    """Return new versions of the roles that their new keys have not signed enough."""
    found: dict[str, Signed] = {}
    for role, metadata in chain.files.items():
        delegator = changed.get(TARGETS if is_delegated(role) else ROOT)
        if role in (ROOT, SNAPSHOT, TIMESTAMP) or role in changed:
            continue
        if not isinstance(delegator, Root | Targets):
            continue
        if not quorum(role, delegator).is_met(metadata):
            found[role] = following(chain.signed()[role], role, now)
    return found
