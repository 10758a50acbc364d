"""The update machine as a table: which event leads from which state to which.

Only what must survive a crash is a state. Verifying an assignment is none: the
retained assignment is delivered again, so it is simply verified again. The switch
and the roll back are none either: each is one write of the record that moves the
``active`` pointer together with the state, and serving what ``active`` names is
repeated in every state. What remains is four states, each with one action that may
be repeated from its beginning at any time:

    IDLE       nothing to do
    FETCHING   get the staged slot's missing chunks
    PROVING    hash the staged slot, then replay its golden vectors in a worker
    PROBATION  serve the new model and watch it
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """What the machine is doing; persisted before it is done."""

    IDLE = "idle"
    FETCHING = "fetching"
    PROVING = "proving"
    PROBATION = "probation"


class Event(StrEnum):
    """What can happen to the machine."""

    RESTARTED = "restarted"  # the agent was started again
    ASSIGNED = "assigned"  # another artifact, which must be fetched
    FOUND = "found"  # the previous artifact, whose slot is here still
    KEPT = "kept"  # the assignment names what is active and committed
    WATCHED = "watched"  # the assignment names what is active on probation
    REFUSED = "refused"  # the assignment may not be carried out
    FETCHED = "fetched"  # the staged slot is complete
    DAMAGED = "damaged"  # its bytes on disk are not those that were signed
    DEFERRED = "deferred"  # something transient stands in the way
    PROVED = "proved"  # it loads, agrees, and is fast and small enough
    PASSED = "passed"  # probation is over
    FAILED = "failed"  # the artifact is given up, and what served before serves
    REVERTED = "reverted"  # the active model keeps crashing; back to the previous


_I, _F, _P, _W = State

# fmt: off
_ROWS: Mapping[Event, tuple[State | None, ...]] = {
    # from           IDLE  FETCHING  PROVING  PROBATION
    Event.RESTARTED: (_I,   _F,       _P,      _W),
    Event.ASSIGNED:  (_F,   _F,       _F,      _F),
    Event.FOUND:     (_P,   _P,       _P,      _P),
    Event.KEPT:      (_I,   _I,       _I,      None),
    Event.WATCHED:   (_W,   _W,       _W,      _W),
    Event.REFUSED:   (_I,   _I,       _I,      _W),
    Event.FETCHED:   (None, _P,       None,    None),
    Event.DAMAGED:   (None, None,     _F,      None),
    Event.DEFERRED:  (None, _F,       _P,      None),
    Event.PROVED:    (None, None,     _W,      None),
    Event.PASSED:    (None, None,     None,    _I),
    Event.FAILED:    (None, _I,       _I,      _I),
    Event.REVERTED:  (_I,   _F,       _P,      None),
}
# fmt: on

TABLE: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (before, event): after
        for event, row in _ROWS.items()
        for before, after in zip(State, row, strict=True)
        if after is not None
    }
)
"""Every pair that may happen, and the state it leads to."""


def after(state: State, event: Event) -> State:
    """Return the state that ``event`` leads to from ``state``.

    Raises:
        RuntimeError: The pair is not in the table; this is a bug.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise RuntimeError(f"{event} cannot happen while {state}") from None
