"""Carry out one plan, or one word of an operator, in one transaction.

Everything a plan asks for is stored together: assignments, touched devices, the
rollout's next state and the decision behind it. A plan that was made on an older
revision is dropped. Publishing comes after the commit and is the business of
``fleet/assignments.py``, so that a process killed in between loses nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from quarterdeck_controller.fleet.assignments import Assignments, Wish
from quarterdeck_controller.rollout.plan import Assign, Plan
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.state import Step, after
from quarterdeck_controller.store.records import (
    Assigned,
    Decision,
    Member,
    Rollout,
    RolloutState,
)
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.assignment import Probation
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

AT_ONCE = 2000
"""Assignments signed in one transaction; the next plan asks for the rest."""


def carry_out(
    records: Records,
    plan: Plan,
    policy: Policy,
    assignments: Assignments,
    now: datetime,
) -> bool:
    """Store what ``plan`` asks for; return False when it is out of date."""
    if plan.empty:
        return True
    if records.rollouts.get(plan.before.id) != plan.before:
        return False
    chosen = plan.assign[:AT_ONCE]
    assigned = assignments.sign(
        records, [_wish(plan.before, policy, it) for it in chosen], now
    )
    records.rollouts.put_members(_members(records, plan.before, chosen, assigned, now))
    if plan.withdraw:
        records.assignments.withdraw(plan.withdraw)
    records.rollouts.replace(plan.before, plan.after)
    records.decisions.add(_decision(plan, len(chosen), now))
    return True


def command(
    records: Records, rollout: int, step: Step, reason: str, now: datetime
) -> Rollout:
    """Carry out an operator's word and return the rollout after it.

    Saying it again when it has already been done changes nothing.

    Raises:
        RejectedError: ``NOT_FOUND``, or ``NOT_ALLOWED`` in its present state.
    """
    before = records.rollouts.get(rollout)
    if before is None:
        raise RejectedError(Code.NOT_FOUND, f"no rollout {rollout}")
    if before.state is _LEADS_TO.get(step):
        return before
    moved = replace(
        before, state=after(before.state, step), changed_at=now, reason=reason
    )
    if step is Step.RESUME:
        # What failed until now is excused, and the wave soaks anew.
        moved = replace(
            moved, resumed_at=now, soak_from=None, looks=0, wave_started_at=now
        )
    records.rollouts.replace(before, moved)
    records.decisions.add(Decision(now, str(step), reason, rollout))
    return replace(moved, revision=before.revision + 1)


_LEADS_TO = {
    Step.START: RolloutState.RUNNING,
    Step.RESUME: RolloutState.RUNNING,
    Step.PAUSE: RolloutState.PAUSED,
    Step.ABORT: RolloutState.ABORTED,
    Step.ROLL_BACK: RolloutState.ROLLING_BACK,
}


def _wish(rollout: Rollout, policy: Policy, assign: Assign) -> Wish:
    return Wish(
        device=assign.device,
        device_class=assign.device_class,
        runs=assign.runs,
        reason=assign.reason,
        probation=Probation(
            seconds=policy.probation_s, max_errors=policy.probation_errors
        ),
        rollout=rollout.id,
    )


def _members(
    records: Records,
    rollout: Rollout,
    chosen: Sequence[Assign],
    assigned: Sequence[Assigned],
    now: datetime,
) -> list[Member]:
    known = {it.device: it for it in records.rollouts.members(rollout.id)}
    return [
        replace(known[assign.device], undo_sequence=signed.sequence)
        if assign.undo
        else Member(
            rollout=rollout.id,
            device=assign.device,
            wave=assign.wave,
            target_digest=assign.runs.target.sha256,
            sequence=signed.sequence,
            assigned_at=now,
            previous=assign.previous,
        )
        for assign, signed in zip(chosen, assigned, strict=True)
    ]


def _decision(plan: Plan, count: int, now: datetime) -> Decision:
    changed = plan.before.state is not plan.after.state
    if changed:
        what = str(plan.after.state)
    elif plan.verdict is not None:
        what = f"verdict {plan.verdict.outcome}"
    else:
        what = "assigned" if count else "soaking"
    numbers: Mapping[str, object] = plan.verdict.numbers if plan.verdict else {}
    told = {"wave": plan.before.wave, "assigned": count}
    reason = "; ".join(plan.reasons)
    return Decision(now, what, reason, plan.before.id, {**told, **numbers})
