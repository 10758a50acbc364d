"""See to it that nothing brings a revoked artifact to a device.

No device would install it: its class role lists it no more. But a rollout that goes on
offering it would fail device after device, and an assignment that stays at the broker
would be refused for ever and look like an attack.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from quarterdeck_controller.rollout.catalog import CatalogPort, RevokedPort
from quarterdeck_controller.rollout.execute import command
from quarterdeck_controller.rollout.state import UNFINISHED, Step
from quarterdeck_controller.store.records import (
    Decision,
    Member,
    Rollout,
    RolloutState,
)
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.errors import RejectedError


@dataclass(frozen=True, slots=True)
class Enforced:
    """What was done.

    Attributes:
        rollouts: Those that were stopped, with what was done to them.
        withdrawn: Devices whose assignment was taken back.
    """

    rollouts: Mapping[int, Step]
    withdrawn: tuple[str, ...]


def enforce(
    records: Records,
    catalog: CatalogPort,
    revoked: Mapping[str, RevokedPort],
    now: datetime,
) -> Enforced:
    """Stop rollouts of revoked releases and take assignments of them back.

    A rollout of a release that was revoked for every class is rolled back, or aborted
    when it has not begun. One that was revoked for some is paused, so that a person
    decides whether the others go on.
    """
    stopped: dict[int, Step] = {}
    for rollout in records.rollouts.all(*UNFINISHED):
        step = decide(rollout, revoked, whole=_is_gone(catalog, rollout.release))
        if step is not None:
            command(records, rollout.id, step, _reason(rollout, revoked), now)
            stopped[rollout.id] = step
    digests = records.assignments.digests()
    devices = tuple(device for device, it in digests.items() if it in revoked)
    if devices:
        records.assignments.withdraw(devices)
        told = f"{len(devices)} assignments of revoked releases"
        records.decisions.add(Decision(now, "withdrawn", told))
    return Enforced(stopped, devices)


def decide(
    rollout: Rollout, revoked: Mapping[str, RevokedPort], *, whole: bool
) -> Step | None:
    """Return what must be done to ``rollout``, or None.

    Args:
        rollout: One that is not finished.
        revoked: What was revoked, by artifact.
        whole: Whether its release is in force for no class any more.
    """
    ours = [it for it in revoked.values() if it.release_id == rollout.release]
    if not ours or rollout.state is RolloutState.ROLLING_BACK:
        return None
    if whole:
        begun = rollout.state is not RolloutState.PLANNED
        return Step.ROLL_BACK if begun else Step.ABORT
    newest = max(it.at for it in ours)
    settled = rollout.resumed_at is not None and rollout.resumed_at >= newest
    running = rollout.state is RolloutState.RUNNING
    return Step.PAUSE if running and not settled else None


def without_revoked(member: Member, revoked: Mapping[str, RevokedPort]) -> Member:
    """Return ``member`` with nothing to go back to where that was revoked."""
    previous = member.previous
    if previous is None or previous.target.sha256 not in revoked:
        return member
    return replace(member, previous=None)


def _is_gone(catalog: CatalogPort, release: str) -> bool:
    try:
        return not catalog.release(release).variants
    except RejectedError:
        return True


def _reason(rollout: Rollout, revoked: Mapping[str, RevokedPort]) -> str:
    ours = [it for it in revoked.values() if it.release_id == rollout.release]
    newest = max(ours, key=lambda it: it.at)
    classes = ", ".join(sorted(it.device_class for it in ours))
    return f"{rollout.release} was revoked for {classes}: {newest.reason}"
