"""Which older releases a device may go back to (pure; PROTOCOL.md section 5).

A device refuses a release older than one it has accepted of the same model, unless the
class role permits it: a thief of the director's key can then not bring back a model
that was replaced for a reason. So the class role permits as little as it can, anew
with every release: what devices may have to fall back on, and nothing else.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listed:
    """A target of a class role.

    Attributes:
        artifact: The digest by which devices report it.
        release: Its release counter.
        downgrade: The permission that is signed beside it; empty for none.
    """

    path: str
    artifact: str
    model: str
    release: int
    downgrade: str


@dataclass(frozen=True, slots=True)
class Permission:
    """What shall be signed beside a target from now on; empty takes a permission."""

    path: str
    downgrade: str


def after_release(
    listed: Sequence[Listed], model: str, release: str, held: Collection[str]
) -> tuple[Permission, ...]:
    """Return the permissions that change when ``release`` of ``model`` is made.

    Args:
        listed: What the class role lists, without the new release.
        model: The model that gets a new release; others are left alone.
        release: The new release's name, for the reasons.
        held: Artifacts that devices of the class run, keep as the previous one, or
            are assigned.
    """
    ours = [it for it in listed if it.model == model]
    newest = max((it.release for it in ours), default=0)
    wanted = {
        it.path: _reason(it, release, held=it.artifact in held, newest=newest)
        for it in ours
    }
    return tuple(
        Permission(it.path, wanted[it.path])
        for it in ours
        if bool(it.downgrade) != bool(wanted[it.path])
    )


def _reason(it: Listed, release: str, *, held: bool, newest: int) -> str:
    if held:
        return f"devices ran or kept it when {release} was released"
    return f"the newest before {release}" if it.release == newest else ""
