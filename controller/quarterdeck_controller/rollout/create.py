"""Make a rollout, or refuse it where it could not work."""

from datetime import datetime

from quarterdeck_controller.fleet.inventory import Selector, select
from quarterdeck_controller.rollout.catalog import CatalogPort
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.state import UNFINISHED
from quarterdeck_controller.store.records import Decision, Rollout, RolloutState
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


def create(
    records: Records,
    catalog: CatalogPort,
    release: str,
    selector: str,
    policy: Policy,
    *,
    now: datetime,
    planned: bool = False,
) -> Rollout:
    """Record a rollout and return it.

    Raises:
        RejectedError: ``NOT_FOUND`` for an unknown release or device, ``CONFLICT``
            when another unfinished rollout has a device of the cohort, ``NOT_ALLOWED``
            when no device of the cohort could get the release.
    """
    draft = check(records, catalog, release, selector, policy, now=now)
    state = RolloutState.PLANNED if planned else RolloutState.RUNNING
    rollout = records.rollouts.add(
        Rollout(
            id=0,
            release=draft.release,
            selector=draft.selector,
            policy=draft.policy,
            state=state,
            created_at=now,
            changed_at=now,
        )
    )
    reason = f"{release} to {selector}"
    records.decisions.add(Decision(now, f"created {state}", reason, rollout.id))
    return rollout


def check(
    records: Records,
    catalog: CatalogPort,
    release: str,
    selector: str,
    policy: Policy,
    *,
    now: datetime,
) -> Rollout:
    """Return the rollout as it would be, without recording it.

    Raises:
        RejectedError: As ``create``.
    """
    variants = catalog.release(release).variants
    named = select(records, selector)
    cohort = tuple(device for device in named if device.revoked_at is None)
    if not cohort:
        which = "no device matches" if not named else "only revoked devices match"
        raise RejectedError(Code.NOT_ALLOWED, f"{which} {selector!r}")
    classes = {device.device_class for device in cohort}
    if not classes & variants.keys():
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"{release} has variants for {', '.join(sorted(variants))};"
            f" the cohort is of {', '.join(sorted(classes))}",
        )
    _check_overlap(records, selector, {device.id for device in cohort})
    text = policy.model_dump_json()
    return Rollout(0, release, selector, text, RolloutState.PLANNED, now, now)


def _check_overlap(records: Records, selector: str, cohort: set[str]) -> None:
    devices = records.devices.all()
    for other in records.rollouts.all(*UNFINISHED):
        theirs = {it.id for it in Selector.parse(other.selector).of(devices)}
        theirs |= {it.device for it in records.rollouts.members(other.id)}
        both = sorted(cohort & theirs)
        if both:
            raise RejectedError(
                Code.CONFLICT,
                f"rollout {other.id} ({other.release}, {other.state}) has"
                f" {len(both)} of the {len(cohort)} devices of {selector!r},"
                f" {both[0]} for one: wait for it, or abort it",
            )
