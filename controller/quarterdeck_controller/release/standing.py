"""Change how a release stands: revoke it, permit or forbid going back to it.

Each is a change of class roles, in force at once where their keys are here, else a
request for signatures. Saying it again when it is done changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuf.api.metadata import Targets

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.catalog import Catalog, Release, Variant
from quarterdeck_controller.release.downgrade import Permission
from quarterdeck_controller.release.listings import listing_of, set_downgrade
from quarterdeck_controller.release.revocation import MAX_REASON, Revoked, revoke_in
from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.drafts import following
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.requests import Request
from quarterdeck_controller.repository.roles import class_role
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_DOWNGRADE_REASON = 200


@dataclass(frozen=True, slots=True)
class Changed:
    """What came of changing a release's standing.

    Attributes:
        classes: For which it is changed; those where it was so already are left out.
        request: What waits for signatures; None when it is in force, or when nothing
            was to be done.
    """

    release: Release
    classes: tuple[str, ...]
    request: Request | None


Change = Callable[[Targets, Variant], bool]
"""Changes a role that is about to be signed; returns whether there was need to."""


def revoke_release(
    home: Home, release: str, reason: str, clock: Clock, *, classes: Sequence[str] = ()
) -> Changed:
    """Have the class roles list ``release`` no more: no device installs it any more.

    Raises:
        RejectedError: ``NOT_FOUND`` for an unknown release or class, ``NOT_ALLOWED``
            for a reason that is none, ``CONFLICT`` when a change of the same role
            waits for signatures.
        TransientError: ``CONFLICT`` when another process is publishing.
    """
    _check_reason(reason, MAX_REASON)

    def revoke(signed: Targets, variant: Variant) -> bool:
        path = variant.target.path
        file, counter = signed.targets[path], variant.listing.release
        revoke_in(signed, path, Revoked.of(file, counter, reason, clock.now()))
        return True

    why = f"revoke {release}: {reason}"
    return _change(home, release, clock, classes, change=revoke, why=why)


def permit_downgrade(
    home: Home, release: str, reason: str, clock: Clock, *, classes: Sequence[str] = ()
) -> Changed:
    """Have the class roles permit devices to go back to ``release``.

    Raises:
        RejectedError: As ``revoke_release``; ``RELEASE_REVOKED`` when it was revoked.
    """
    _check_reason(reason, MAX_DOWNGRADE_REASON)
    why = f"permit going back to {release}: {reason}"
    return _change(home, release, clock, classes, change=_setting(reason), why=why)


def forbid_downgrade(
    home: Home, release: str, clock: Clock, *, classes: Sequence[str] = ()
) -> Changed:
    """Take the permission to go back to ``release`` from devices.

    Raises:
        RejectedError: As ``permit_downgrade``.
    """
    why = f"forbid going back to {release}"
    return _change(home, release, clock, classes, change=_setting(""), why=why)


def _setting(downgrade: str) -> Change:
    def change(signed: Targets, variant: Variant) -> bool:
        path = variant.target.path
        if listing_of(signed.targets[path]).downgrade == downgrade:
            return False
        set_downgrade(signed, Permission(path, downgrade))
        return True

    return change


def _change(
    home: Home,
    release: str,
    clock: Clock,
    classes: Sequence[str],
    *,
    change: Change,
    why: str,
) -> Changed:
    repository, catalog = Repository(home, clock), Catalog(home)
    with repository.exclusive():
        known = catalog.known(release)
        wanted = _wanted(known, classes)
        chain = repository.chain()
        changed = _changed_roles(chain, wanted, change, clock)
        if not changed:
            return Changed(known, (), None)
        outcome = repository.propose(changed, why=why)
    names = tuple(it.index.device_class for it in wanted)
    done = tuple(name for name in names if class_role(name) in changed)
    request = outcome if isinstance(outcome, Request) else None
    return Changed(known, done, request)


def _changed_roles(
    chain: Chain, wanted: Sequence[Variant], change: Change, clock: Clock
) -> dict[str, Targets]:
    changed = {}
    for variant in wanted:
        role = class_role(variant.index.device_class)
        signed = following(chain.delegated[role], role, clock.now())
        if change(signed, variant):
            changed[role] = signed
    return changed


def _wanted(known: Release, classes: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants that are in force of the classes asked for, or of all."""
    ever = {*known.variants, *known.revoked}
    for name in classes:
        if name not in ever:
            raise RejectedError(
                Code.NOT_FOUND,
                f"{known.id} has no variant for {name}; it has: "
                f"{', '.join(sorted(ever))}",
            )
    names = classes or tuple(known.variants)
    return tuple(known.variants[name] for name in names if name in known.variants)


def _check_reason(reason: str, limit: int) -> None:
    if not 1 <= len(reason.strip()) <= limit:
        raise RejectedError(
            Code.NOT_ALLOWED, f"a reason has 1 to {limit} letters, this {len(reason)}"
        )
