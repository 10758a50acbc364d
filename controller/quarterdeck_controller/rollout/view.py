"""What a plan sees of one device, and how the device stands (pure)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from quarterdeck_controller.rollout.gate import Evidence
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.store.records import Member, Rollout, Runs, Standing


@dataclass(frozen=True, slots=True)
class DeviceView:
    """Everything that is known of one device when a plan is made.

    Attributes:
        online_since: None while it is offline or was never seen.
        standing: What it last reported; None before its first report.
        running: The artifact it last committed, as the catalog knows it; None when it
            has none or one that is not in the catalog.
        lacking: What it lacks to run the release, as a sentence.
        desired: Digest of its current assignment.
        held_by: Another unfinished rollout that touched it.
        member: How this rollout touched it; None when it has not.
        new: What it measured with the rollout's release.
        old: What it measured with the release before; None when there was none.
    """

    id: str
    device_class: str
    online_since: datetime | None = None
    standing: Standing | None = None
    running: Runs | None = None
    lacking: str | None = None
    desired: str | None = None
    held_by: int | None = None
    member: Member | None = None
    new: Evidence | None = None
    old: Evidence | None = None

    @property
    def active(self) -> str | None:
        """The digest it reports as active, which is the truth."""
        return self.standing.active_digest if self.standing else None


class Status(StrEnum):
    """How a touched device stands with its rollout's release."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    EXCUSED = "excused"
    PENDING = "pending"
    DEFERRED = "deferred"
    OFFLINE = "offline"
    MOVED_ON = "moved_on"


_ANSWERS = {
    "rolled_back": Status.FAILED,
    "refused": Status.FAILED,
    "deferred": Status.DEFERRED,
}
COUNTED_FAILED = (Status.FAILED, Status.TIMED_OUT)


def status(
    view: DeviceView, member: Member, policy: Policy, rollout: Rollout, now: datetime
) -> Status:
    """Return how ``view`` stands, by what it reported and by the time.

    A failure or a missed deadline that is older than the operator's last "resume"
    is excused: resuming says "go on in spite of these".
    """
    if view.desired != member.target_digest:
        return Status.MOVED_ON
    answer = _answer(view.standing, member)
    if answer is Status.FAILED and view.standing is not None:
        return _unless_excused(answer, view.standing.settled_at, rollout)
    if answer is Status.DONE:
        return answer
    if view.online_since is None:
        return Status.OFFLINE
    until = due(view.online_since, member, policy)
    if answer is Status.DEFERRED or now < until:
        return answer
    return _unless_excused(Status.TIMED_OUT, until, rollout)


def due(online_since: datetime, member: Member, policy: Policy) -> datetime:
    """Return when an online device must have committed.

    The time a device was offline does not count against it.
    """
    begun = max(online_since, member.assigned_at)
    return begun + timedelta(seconds=policy.deadline_s)


def _answer(newest: Standing | None, member: Member) -> Status:
    if newest is None:
        return Status.PENDING
    if _committed(newest, member):
        return Status.DONE
    if newest.update_sequence < member.sequence:
        return Status.PENDING
    return _ANSWERS.get(newest.outcome or "", Status.PENDING)


def _unless_excused(failure: Status, at: datetime, rollout: Rollout) -> Status:
    resumed_at = rollout.resumed_at
    excused = resumed_at is not None and at <= resumed_at
    return Status.EXCUSED if excused else failure


def _committed(newest: Standing, member: Member) -> bool:
    return (
        newest.active_digest == member.target_digest
        and newest.outcome == "committed"
        and newest.update_digest in (member.target_digest, None)
    )
