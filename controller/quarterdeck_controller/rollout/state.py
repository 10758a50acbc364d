"""The states of a rollout and the only ways between them.

    planned ──start──▶ running ──promote──▶ promoted
       │               │  ▲  │                  │
       │            pause resume                │
       │               ▼  │  │                  │
       │              paused │                  │
       │               │     │                  │
       │               └─────┴──roll back──┬────┘
       │                                   ▼
       └──abort──▶ aborted ──roll back──▶ rolling_back ──undone──▶ rolled_back

Anything that is under way can be aborted: the devices then stay as they are.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from quarterdeck_controller.store.records import RolloutState
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


class Step(StrEnum):
    """What moves a rollout. The last two are the planner's alone."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    ROLL_BACK = "rollback"
    PROMOTE = "promote"
    UNDONE = "undone"


TRANSITIONS: Mapping[tuple[RolloutState, Step], RolloutState] = MappingProxyType(
    {
        (RolloutState.PLANNED, Step.START): RolloutState.RUNNING,
        (RolloutState.PLANNED, Step.ABORT): RolloutState.ABORTED,
        (RolloutState.RUNNING, Step.PAUSE): RolloutState.PAUSED,
        (RolloutState.RUNNING, Step.ABORT): RolloutState.ABORTED,
        (RolloutState.RUNNING, Step.ROLL_BACK): RolloutState.ROLLING_BACK,
        (RolloutState.RUNNING, Step.PROMOTE): RolloutState.PROMOTED,
        (RolloutState.PAUSED, Step.RESUME): RolloutState.RUNNING,
        (RolloutState.PAUSED, Step.ABORT): RolloutState.ABORTED,
        (RolloutState.PAUSED, Step.ROLL_BACK): RolloutState.ROLLING_BACK,
        (RolloutState.PROMOTED, Step.ROLL_BACK): RolloutState.ROLLING_BACK,
        (RolloutState.ABORTED, Step.ROLL_BACK): RolloutState.ROLLING_BACK,
        (RolloutState.ROLLING_BACK, Step.ABORT): RolloutState.ABORTED,
        (RolloutState.ROLLING_BACK, Step.UNDONE): RolloutState.ROLLED_BACK,
    }
)

ACTIVE = (RolloutState.RUNNING, RolloutState.ROLLING_BACK)
"""States in which the planner acts."""

UNFINISHED = (
    RolloutState.PLANNED,
    RolloutState.RUNNING,
    RolloutState.PAUSED,
    RolloutState.ROLLING_BACK,
)
"""States in which a rollout keeps its cohort from others."""

ENDED = (RolloutState.PROMOTED, RolloutState.ABORTED, RolloutState.ROLLED_BACK)
"""States that nothing but an operator leaves."""


def after(state: RolloutState, step: Step) -> RolloutState:
    """Return the state that ``step`` leads to.

    Raises:
        RejectedError: ``NOT_ALLOWED``, with what is allowed instead.
    """
    if (state, step) not in TRANSITIONS:
        allowed = [it.value for before, it in TRANSITIONS if before is state]
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"cannot {step} a rollout that is {state};"
            f" allowed: {', '.join(allowed) or 'nothing, it has ended'}",
        )
    return TRANSITIONS[state, step]
