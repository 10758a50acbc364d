"""The planner: what a rollout does next, and why (pure).

From the policy, the rollout as stored, the variants of its release, the fleet as
observed and the time, to a plan that leaves no choices. Applying a plan and planning
again gives an empty plan until the world or the time has moved on. Rules:

- A wave never holds more devices than its limit, and never a device that the release
  has no variant for.
- The next wave begins, and a rollout is promoted, only on a successful verdict.
- A wave settles when each of its devices committed, failed, or is not waited for:
  offline devices and those that defer past their deadline. No device can hold a wave
  longer than twice the deadline. Then it soaks, then the gate looks.
- A rollback takes every touched device that had a release back to it, and ends when
  they say so or the deadline has passed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from quarterdeck_controller.rollout.cohort import Sorted, sort
from quarterdeck_controller.rollout.gate import (
    Evidence,
    Outcome,
    Pair,
    Results,
    Verdict,
    judge,
    judge_failures,
)
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.state import Step, after
from quarterdeck_controller.rollout.view import (
    COUNTED_FAILED,
    DeviceView,
    Status,
    due,
    status,
)
from quarterdeck_controller.store.records import Member, Rollout, RolloutState, Runs

LOOK_GROWTH = 1.5
"""Each look at an undecided wave comes this much later than the one before."""

MIN_LOOK_S = 5.0
NAMED_DEVICES = 5
"""How many devices a sentence names before it only counts them."""


@dataclass(frozen=True, slots=True)
class Assign:
    """One device must run this.

    Attributes:
        previous: What it runs now, to come back to.
        undo: True when this takes a device back.
    """

    device: str
    device_class: str
    runs: Runs
    wave: int
    reason: str
    previous: Runs | None = None
    undo: bool = False


@dataclass(frozen=True, slots=True)
class Stands:
    """How one touched device stands; ``code`` and ``detail`` as it reported them."""

    device: str
    wave: int
    status: Status
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next, and why.

    Attributes:
        before: The rollout that was planned on.
        after: The rollout as it is once the plan is carried out.
        assign: Assignments to sign, empty when nothing is to be done.
        withdraw: Devices whose assignment is taken back: they are away, have not
            begun it, and there is nothing to take them back to.
        verdict: What the gate said, when it was asked.
        reasons: Why, in sentences for people.
        refused: Devices of the cohort that are left out, with the reason.
        stands: How each touched device stands, in the order of waves.
        total: Devices that waves are a share of.
        limit: Devices that this wave may hold.
    """

    before: Rollout
    after: Rollout
    assign: tuple[Assign, ...] = ()
    withdraw: tuple[str, ...] = ()
    verdict: Verdict | None = None
    reasons: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    stands: tuple[Stands, ...] = ()
    total: int = 0
    limit: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to carry out."""
        acts = self.assign or self.withdraw
        return not acts and self.before == self.after

    def counts(self) -> dict[Status, int]:
        """Return how many touched devices stand how."""
        return dict(Counter(it.status for it in self.stands))


def plan(
    policy: Policy,
    rollout: Rollout,
    variants: Mapping[str, Runs],
    fleet: Sequence[DeviceView],
    now: datetime,
) -> Plan:
    """Return what ``rollout`` does next.

    Args:
        policy: The operator's policy.
        rollout: The rollout as stored.
        variants: The rollout's release, by device class.
        fleet: The devices of the cohort and every device the rollout touched.
        now: The time.
    """
    cohort = sort(rollout.id, rollout.release, variants, fleet)
    survey = _survey(policy, rollout, cohort, now)
    if rollout.state is RolloutState.RUNNING:
        decided = _advance(policy, rollout, variants, survey, now)
    elif rollout.state is RolloutState.ROLLING_BACK:
        decided = _undo(policy, rollout, survey, now)
    else:
        decided = Plan(rollout, rollout, reasons=(rollout.reason,))
    return replace(
        decided,
        refused=cohort.refused,
        stands=tuple(_stands(it) for it in survey.touched),
        total=cohort.total,
        limit=policy.limit(rollout.wave, cohort.total),
    )


def preview(
    policy: Policy,
    rollout: Rollout,
    variants: Mapping[str, Runs],
    fleet: Sequence[DeviceView],
) -> tuple[tuple[DeviceView, ...], ...]:
    """Return who would come in each wave if all went well, from the fleet as it is."""
    cohort = sort(rollout.id, rollout.release, variants, fleet)
    limits = [policy.limit(wave, cohort.total) for wave in range(len(policy.waves))]
    everyone = (*cohort.touched, *cohort.waiting)
    begins = [0, *limits]
    return tuple(
        everyone[begin:end] for begin, end in zip(begins, limits, strict=False)
    )


@dataclass(frozen=True, slots=True)
class _Touched:
    view: DeviceView
    member: Member
    status: Status


@dataclass(frozen=True, slots=True)
class _Survey:
    cohort: Sorted
    touched: tuple[_Touched, ...]
    counts: Mapping[Status, int]

    def having(self, *statuses: Status) -> tuple[_Touched, ...]:
        return tuple(it for it in self.touched if it.status in statuses)

    def results(self) -> Results:
        failed = [_code(it) for it in self.touched if it.status in COUNTED_FAILED]
        done = self.counts[Status.DONE] + len(self.cohort.already)
        return Results(done, failed, done + len(failed) + self.counts[Status.PENDING])

    def pairs(self) -> list[Pair]:
        nothing = Evidence()
        return [
            Pair(it.view.new or nothing, it.view.old) for it in self.having(Status.DONE)
        ]


def _survey(policy: Policy, rollout: Rollout, cohort: Sorted, now: datetime) -> _Survey:
    touched = tuple(
        _Touched(view, view.member, status(view, view.member, policy, rollout, now))
        for view in cohort.touched
        if view.member is not None
    )
    return _Survey(cohort, touched, Counter(it.status for it in touched))


def _advance(
    policy: Policy,
    rollout: Rollout,
    variants: Mapping[str, Runs],
    survey: _Survey,
    now: datetime,
) -> Plan:
    failures = judge_failures(policy, survey.results())
    if failures.outcome is Outcome.FAILED:
        return _stop(policy, rollout, failures, survey, now)
    assign = tuple(_assign(policy, rollout, variants, survey.cohort))
    if assign or rollout.wave_started_at is None:
        begun = replace(rollout, wave_started_at=rollout.wave_started_at or now)
        reason = (
            f"{_wave(policy, rollout)}: {rollout.release} to {_devices(len(assign))}"
        )
        return Plan(rollout, begun, assign, reasons=(reason,))
    if rollout.soak_from is None:
        waited = _waited_for(policy, rollout, survey, now)
        if waited:
            reason = f"{_wave(policy, rollout)}: waiting for {_names(waited)}"
            return Plan(rollout, rollout, reasons=(reason,))
        settled = replace(rollout, soak_from=now)
        reason = f"{_wave(policy, rollout)}: settled, soaking for {policy.soak_s:g} s"
        return Plan(rollout, settled, reasons=(reason,))
    return _look(policy, rollout, survey, rollout.soak_from, now)


def _look(
    policy: Policy,
    rollout: Rollout,
    survey: _Survey,
    soak_from: datetime,
    now: datetime,
) -> Plan:
    look_at = soak_from + timedelta(seconds=_look_s(policy, rollout.looks))
    held = max(soak_from, rollout.resumed_at or soak_from)
    give_up = held + timedelta(seconds=policy.soak_s + policy.hold_s)
    if now < min(look_at, give_up):
        what = "held, next look" if rollout.looks else "soaking, first look"
        said = f"; {rollout.reason}" if rollout.looks else ""
        left = (look_at - now).total_seconds()
        reason = f"{_wave(policy, rollout)}: {what} in {left:.0f} s{said}"
        return Plan(rollout, rollout, reasons=(reason,))
    verdict = judge(policy, survey.results(), survey.pairs(), rollout.looks + 1)
    if verdict.outcome is Outcome.SUCCESSFUL:
        return _pass(policy, rollout, verdict, survey, now)
    if verdict.outcome is Outcome.FAILED:
        return _stop(policy, rollout, verdict, survey, now)
    if now >= give_up:
        reason = f"undecided for {policy.hold_s:g} s past the soak: {verdict.reason}"
        return _moved(rollout, Step.PAUSE, reason, now, verdict)
    looked = replace(rollout, looks=rollout.looks + 1, reason=verdict.reason)
    return Plan(rollout, looked, verdict=verdict, reasons=(verdict.reason,))


def _look_s(policy: Policy, looks: int) -> float:
    between = max(policy.soak_s, MIN_LOOK_S)
    return policy.soak_s + between * (LOOK_GROWTH ** min(looks, 50) - 1)


def _pass(
    policy: Policy,
    rollout: Rollout,
    verdict: Verdict,
    survey: _Survey,
    now: datetime,
) -> Plan:
    wave = _next_wave(policy, rollout, survey.cohort.total)
    if wave is not None:
        onward = replace(
            rollout,
            wave=wave,
            wave_started_at=None,
            soak_from=None,
            looks=0,
            reason=verdict.reason,
        )
        reason = f"{_wave(policy, rollout)} passed: {verdict.reason}"
        return Plan(rollout, onward, verdict=verdict, reasons=(reason,))
    left = survey.having(Status.OFFLINE, Status.DEFERRED, Status.PENDING)
    open_ends = f"; still to come: {_names(left)}" if left else ""
    return _moved(rollout, Step.PROMOTE, verdict.reason + open_ends, now, verdict)


def _next_wave(policy: Policy, rollout: Rollout, total: int) -> int | None:
    now = policy.limit(rollout.wave, total)
    later = range(rollout.wave + 1, len(policy.waves))
    # A wave that would add no device is not worth a soak.
    return next((wave for wave in later if policy.limit(wave, total) > now), None)


def _stop(
    policy: Policy, rollout: Rollout, verdict: Verdict, survey: _Survey, now: datetime
) -> Plan:
    failed = survey.having(*COUNTED_FAILED)
    who = f": {_names(failed)}" if failed else ""
    step = Step.ROLL_BACK if policy.on_failure == "rollback" else Step.PAUSE
    reason = f"{_wave(policy, rollout)} failed: {verdict.reason}{who}"
    return _moved(rollout, step, reason, now, verdict)


def _moved(
    rollout: Rollout, step: Step, reason: str, now: datetime, verdict: Verdict | None
) -> Plan:
    moved = replace(
        rollout, state=after(rollout.state, step), changed_at=now, reason=reason
    )
    return Plan(rollout, moved, verdict=verdict, reasons=(reason,))


def _assign(
    policy: Policy, rollout: Rollout, variants: Mapping[str, Runs], cohort: Sorted
) -> Iterator[Assign]:
    limit = policy.limit(rollout.wave, cohort.total)
    room = max(0, limit - len(cohort.touched))
    reason = f"rollout {rollout.id}, {_wave(policy, rollout)}"
    for view in cohort.waiting[:room]:
        yield Assign(
            device=view.id,
            device_class=view.device_class,
            runs=variants[view.device_class],
            wave=rollout.wave,
            reason=reason,
            previous=view.running,
        )


def _waited_for(
    policy: Policy, rollout: Rollout, survey: _Survey, now: datetime
) -> tuple[_Touched, ...]:
    begun = rollout.wave_started_at or now
    if now >= begun + timedelta(seconds=2 * policy.deadline_s):
        return ()  # whoever comes and goes for that long is not waited for
    return tuple(
        it
        for it in survey.having(Status.PENDING, Status.DEFERRED)
        if it.view.online_since is not None
        and now < due(it.view.online_since, it.member, policy)
    )


def _undo(policy: Policy, rollout: Rollout, survey: _Survey, now: datetime) -> Plan:
    ours = [it for it in survey.touched if it.status is not Status.MOVED_ON]
    assign = tuple(_back(rollout, ours))
    withdraw = tuple(it.view.id for it in ours if _can_be_withdrawn(it))
    if assign or withdraw:
        reason = f"{_devices(len(assign))} to go back to the previous release"
        if withdraw:
            reason += f", {len(withdraw)} that are away and had none never get it"
        return Plan(rollout, rollout, assign, withdraw, reasons=(reason,))
    back = [it for it in survey.touched if it.member.undo_sequence is not None]
    slow = tuple(it for it in back if it.view.online_since and not _has_answered(it))
    over = now >= rollout.changed_at + timedelta(seconds=policy.deadline_s)
    if slow and not over:
        return Plan(rollout, rollout, reasons=(f"waiting for {_names(slow)}",))
    reason = _told(rollout, ours, back)
    return _moved(rollout, Step.UNDONE, reason, now, None)


def _back(rollout: Rollout, ours: Sequence[_Touched]) -> Iterator[Assign]:
    for it in ours:
        previous = it.member.previous
        if previous is None or previous.target.sha256 == it.member.target_digest:
            continue
        yield Assign(
            device=it.view.id,
            device_class=it.view.device_class,
            runs=previous,
            wave=it.member.wave,
            reason=f"rollout {rollout.id} is rolled back",
            undo=True,
        )


def _can_be_withdrawn(it: _Touched) -> bool:
    newest = it.view.standing
    begun = newest is not None and newest.update_sequence >= it.member.sequence
    return it.member.previous is None and it.view.online_since is None and not begun


def _has_answered(it: _Touched) -> bool:
    newest, undo = it.view.standing, it.member.undo_sequence
    if newest is None or undo is None or newest.update_sequence < undo:
        return False
    return newest.outcome not in ("pending", "deferred")


def _is_back(it: _Touched) -> bool:
    # To run the previous release is not enough: until it has answered, the device
    # may be about to switch to the new one.
    previous = it.member.previous
    active = previous is not None and it.view.active == previous.target.sha256
    return active and _has_answered(it)


def _told(rollout: Rollout, ours: Sequence[_Touched], back: Sequence[_Touched]) -> str:
    stuck = tuple(it for it in ours if it.member.previous is None)
    open_ends = tuple(it for it in back if not _is_back(it))
    parts = [rollout.reason] if rollout.reason else []
    parts.append(f"{_devices(len(back) - len(open_ends))} back")
    if open_ends:
        parts.append(f"not heard yet: {_names(open_ends)}")
    if stuck:
        parts.append(f"left, for want of a previous release: {_names(stuck)}")
    return "; ".join(parts)


def _devices(count: int) -> str:
    return f"{count} device{'' if count == 1 else 's'}"


def _stands(it: _Touched) -> Stands:
    newest = it.view.standing
    failed = it.status in (*COUNTED_FAILED, Status.EXCUSED)
    told = newest is not None and newest.update_sequence >= it.member.sequence
    return Stands(
        device=it.view.id,
        wave=it.member.wave,
        status=it.status,
        code=_code(it) if failed else "",
        detail=newest.detail if newest is not None and told else "",
    )


def _code(it: _Touched) -> str:
    if it.status is Status.TIMED_OUT or it.view.standing is None:
        return "timed_out"
    return str(it.view.standing.code or it.view.standing.outcome)


def _names(touched: Sequence[_Touched]) -> str:
    named = [
        f"{it.view.id} ({_code(it)})" if it.status in COUNTED_FAILED else it.view.id
        for it in touched[:NAMED_DEVICES]
    ]
    more = len(touched) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _wave(policy: Policy, rollout: Rollout) -> str:
    return f"wave {rollout.wave + 1} of {len(policy.waves)}"
