"""Decide whose signatures a change of signed metadata needs, and which it lacks (pure).

A change is the new metadata of some roles. A new root is signed by enough of the keys
that the root in force names, and by enough of those that it names itself; every other
role by those that its delegator names, the new one where the change holds it too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from securesystemslib.signer import Signature
from tuf.api.metadata import Metadata, Root, Signed, Targets

from quarterdeck_controller.repository.chain import Chain, Quorum, quorum
from quarterdeck_controller.repository.roles import ROOT, TARGETS, is_delegated
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


@dataclass(frozen=True, slots=True)
class Lack:
    """Signatures that a role's new metadata needs and does not have.

    Attributes:
        have: How many of ``quorum.threshold`` are there.
        could: Ids of the keys that may give the others.
        why: What makes these signatures necessary.
    """

    role: str
    have: int
    quorum: Quorum
    could: tuple[str, ...]
    why: str

    @property
    def need(self) -> int:
        """How many more signatures are needed."""
        return self.quorum.threshold - self.have


@dataclass(frozen=True, slots=True)
class Demand:
    """One group of keys that must agree, and why."""

    quorum: Quorum
    why: str


def demands(
    role: str, changed: Mapping[str, Signed], chain: Chain | None
) -> tuple[Demand, ...]:
    """Return the groups of keys that must sign ``role``'s new metadata.

    ``chain`` is what is in force; None for a fleet that begins.

    Raises:
        RejectedError: ``NOT_FOUND`` when nobody may sign for the role.
    """
    if role == ROOT:
        new = changed[ROOT]
        assert isinstance(new, Root)
        following = Demand(quorum(ROOT, new), "the keys that it names")
        if chain is None:
            return (following,)
        return (Demand(chain.quorum(ROOT), "the keys in force"), following)
    delegator = changed.get(TARGETS if is_delegated(role) else ROOT)
    if isinstance(delegator, Root | Targets):
        return (Demand(quorum(role, delegator), "the keys that the change names"),)
    if chain is None:
        raise RejectedError(Code.NOT_FOUND, f"nobody may sign for {role} yet")
    return (Demand(chain.quorum(role), "the keys in force"),)


def lacks(
    role: str, metadata: Metadata[Any], wanted: tuple[Demand, ...]
) -> tuple[Lack, ...]:
    """Return what ``metadata`` lacks before it can be in force."""
    payload, found = metadata.signed_bytes, []
    for demand in wanted:
        keys = demand.quorum
        signed = keys.signed_by(payload, metadata.signatures)
        if len(signed) < keys.threshold:
            could = tuple(key for key in keys.keys if key not in signed)
            found.append(Lack(role, len(signed), keys, could, demand.why))
    return tuple(found)


def check_follows(changed: Mapping[str, Signed], chain: Chain | None) -> None:
    """Refuse a change that was made from something that is not in force.

    Raises:
        RejectedError: ``CONFLICT`` with both versions.
    """
    for role, signed in changed.items():
        base = chain.signed().get(role) if chain else None
        in_force = base.version if base else 0
        if signed.version != in_force + 1:
            raise RejectedError(
                Code.CONFLICT,
                f"it would be version {signed.version} of {role}; version {in_force} "
                "is in force now",
            )


def lacking(
    metadata: Mapping[str, Metadata[Any]], chain: Chain | None
) -> tuple[Lack, ...]:
    """Return what the new metadata of a change lacks before it can be in force."""
    changed = {role: it.signed for role, it in metadata.items()}
    return tuple(
        lack
        for role, it in metadata.items()
        for lack in lacks(role, it, demands(role, changed, chain))
    )


def with_signatures(
    metadata: Mapping[str, Metadata[Any]],
    offered: Mapping[str, Sequence[Signature]],
    chain: Chain | None,
) -> dict[str, Metadata[Any]]:
    """Return the metadata of the roles that signatures are ``offered`` for, with them.

    Raises:
        RejectedError: ``SIGNATURE_INVALID`` for one that does not fit; none is taken.
    """
    changed = {role: it.signed for role, it in metadata.items()}
    grown = {}
    for role, signatures in offered.items():
        if role not in metadata:
            raise RejectedError(
                Code.SIGNATURE_INVALID,
                f"a signature is for {role}; the request changes {', '.join(metadata)}",
            )
        groups = demands(role, changed, chain)
        for signature in signatures:
            _check_fits(role, metadata[role], signature, groups)
        grown[role] = Metadata(
            metadata[role].signed,
            {**metadata[role].signatures, **{it.keyid: it for it in signatures}},
        )
    return grown


def _check_fits(
    role: str,
    metadata: Metadata[Any],
    signature: Signature,
    groups: Sequence[Demand],
) -> None:
    named = [it for it in groups if signature.keyid in it.quorum.keys]
    if not named:
        raise RejectedError(
            Code.SIGNATURE_INVALID,
            f"the key {signature.keyid[:12]} may not sign for {role}",
        )
    found = {signature.keyid: signature}
    if not any(it.quorum.signed_by(metadata.signed_bytes, found) for it in named):
        raise RejectedError(
            Code.SIGNATURE_INVALID,
            f"the signature of {signature.keyid[:12]} for {role} is not over what was "
            "asked to be signed: it was changed on the way, or is of another request",
        )
