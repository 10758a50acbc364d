"""The update machine's record: the only pointer to what runs, and how it changes.

A change is a pure function from record to record. Every one moves the state through
the table and counts a step; one durable write of the result is what makes it so.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from quarterdeck_agent.update.transitions import Event, State, after
from quarterdeck_shared.assignment import Assignment, Probation
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError
from quarterdeck_shared.ids import ReleaseId, Sha256
from quarterdeck_shared.reported import LastUpdate, Quarantined, Slot
from quarterdeck_shared.wire import Wire

MAX_QUARANTINE = 64
MAX_DETAIL = 300

Outcome = Literal["pending", "committed", "rolled_back", "refused", "deferred"]


class Work(Wire):
    """The assignment that is being carried out.

    Attributes:
        attempts: Times something transient stood in the way since the last success.
        rounds: Times the slot was complete but its bytes were wrong.
        restarts: Times the agent was started again in the present state.
    """

    sequence: int = Field(ge=1)
    digest: Sha256
    release: ReleaseId
    probation: Probation
    attempts: int = Field(default=0, ge=0)
    rounds: int = Field(default=0, ge=0)
    restarts: int = Field(default=0, ge=0)


class Record(Wire):
    """Everything the machine must remember.

    Attributes:
        step: Rises with every write, also over a damaged record.
        event: What led to ``state``.
        committed: Whether ``active`` has passed its probation.
        sequence: The newest assignment accepted as authentic.
        envelope: The sha256 of its bytes, to know a redelivery without the network.
    """

    v: Literal[1] = 1
    step: int = Field(default=0, ge=0)
    state: State = State.IDLE
    event: Event | None = None
    active: Slot | None = None
    previous: Slot | None = None
    staged: Slot | None = None
    committed: bool = False
    work: Work | None = None
    update: LastUpdate | None = None
    sequence: int = Field(default=0, ge=0)
    envelope: Sha256 | None = None
    quarantine: tuple[Quarantined, ...] = Field(default=(), max_length=MAX_QUARANTINE)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that are named, which must stay on disk."""
        named = (self.active, self.previous, self.staged)
        return tuple(slot for slot in named if slot is not None)

    def holds(self, digest: str) -> bool:
        """Return whether a named slot has that digest."""
        return any(slot.digest == digest for slot in self.slots)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something failed or waits: a code and the numbers that led to it."""

    code: Code
    detail: str

    @classmethod
    def of(cls, error: QuarterdeckError) -> "Reason":
        """Return the reason that ``error`` carries."""
        return cls(error.code, error.detail)


def assigned(
    record: Record, event: Event, assignment: Assignment, envelope: str
) -> Record:
    """Return the record with ``assignment`` begun: to be fetched, proved or watched."""
    work = Work(
        sequence=assignment.sequence,
        digest=assignment.target.sha256,
        release=assignment.release,
        probation=assignment.probation,
    )
    staged = Slot(digest=work.digest, release=work.release)
    return _moved(
        record,
        event,
        staged=None if event is Event.WATCHED else staged,
        work=work,
        sequence=assignment.sequence,
        envelope=envelope,
        update=LastUpdate(
            sequence=work.sequence, digest=work.digest, outcome="pending"
        ),
    )


def kept(record: Record, assignment: Assignment, envelope: str) -> Record:
    """Return the record for an assignment that names what is active and committed."""
    digest = assignment.target.sha256
    return _moved(
        record,
        Event.KEPT,
        active=Slot(digest=digest, release=assignment.release),
        staged=None,
        work=None,
        sequence=assignment.sequence,
        envelope=envelope,
        update=LastUpdate(
            sequence=assignment.sequence, digest=digest, outcome="committed"
        ),
    )


def refused(
    record: Record, assignment: Assignment, envelope: str | None, reason: Reason
) -> Record:
    """Return the record for an authentic assignment that may not be carried out.

    A model on probation goes on being watched; a fetch that it overtook ends.
    ``envelope`` is None when it should be judged anew if it is delivered again.
    """
    settled = record if record.state is State.PROBATION else _settled(record)
    update = LastUpdate(
        sequence=assignment.sequence,
        digest=assignment.target.sha256,
        outcome="refused",
        code=reason.code,
        detail=reason.detail[:MAX_DETAIL],
    )
    return _moved(
        settled,
        Event.REFUSED,
        sequence=max(record.sequence, assignment.sequence),
        envelope=envelope,
        update=update,
    )


def restarted(record: Record) -> Record:
    """Return the record after the agent was started again."""
    work = record.work
    if work is not None:
        work = work.model_copy(update={"restarts": work.restarts + 1})
    return _moved(record, Event.RESTARTED, work=work)


def fetched(record: Record, received: int, duplicate: int) -> Record:
    """Return the record once the staged slot is complete."""
    told = record.update
    return _moved(
        record,
        Event.FETCHED,
        work=_fresh(record),
        update=_told(
            record,
            "pending",
            received=received + (told.received_bytes if told else 0),
            duplicate=duplicate + (told.duplicate_bytes if told else 0),
        ),
    )


def damaged(record: Record) -> Record:
    """Return the record when the staged slot must be fetched again."""
    work = _fresh(record)
    work = work.model_copy(update={"rounds": work.rounds + 1})
    return _moved(record, Event.DAMAGED, work=work)


def deferred(record: Record, reason: Reason) -> Record:
    """Return the record while something transient stands in the way."""
    work = _work(record)
    work = work.model_copy(update={"attempts": work.attempts + 1})
    update = _told(record, "deferred", reason)
    return _moved(record, Event.DEFERRED, work=work, update=update)


def proved(record: Record) -> Record:
    """Return the record of the switch: the staged slot is the active one.

    What served before is kept as previous if it was committed; a model that never
    passed its own probation is not something to fall back to while there is better.
    """
    staged, before = record.staged, record.active
    keep_active = record.committed or record.previous in (None, staged)
    previous = before if keep_active else record.previous
    return _moved(
        record,
        Event.PROVED,
        active=staged,
        previous=None if previous == staged else previous,
        staged=None,
        committed=False,
        work=_fresh(record),
        update=_told(record, "pending"),
    )


def passed(record: Record) -> Record:
    """Return the record of the commit."""
    update = _told(record, "committed")
    return _moved(record, Event.PASSED, committed=True, work=None, update=update)


def failed(record: Record, reason: Reason, *, quarantine: bool) -> Record:
    """Return the record of giving the artifact up, which is the roll back.

    From probation the pointer goes back to the previous slot. Needs no network. What
    was not the artifact's fault is tried again when the assignment is delivered again.
    """
    work = _work(record)
    outcome: Outcome = "refused" if record.state is State.FETCHING else "rolled_back"
    back = _rolled_back(record) if record.state is State.PROBATION else _settled(record)
    listed = record.quarantine
    if quarantine:
        listed = _listed(listed, Quarantined(digest=work.digest, code=reason.code))
    return _moved(
        back,
        Event.FAILED,
        envelope=record.envelope if quarantine else None,
        quarantine=listed,
        update=_told(record, outcome, reason),
    )


def reverted(record: Record, reason: Reason, *, quarantine: bool) -> Record:
    """Return the record after the active model was given up for the previous one."""
    active = record.active
    if active is None or record.previous is None:
        raise RuntimeError("there is nothing to go back to")
    update, listed = record.update, record.quarantine
    if quarantine:
        listed = _listed(listed, Quarantined(digest=active.digest, code=reason.code))
    if record.work is None:
        update = LastUpdate(
            sequence=record.sequence,
            digest=active.digest,
            outcome="rolled_back",
            code=reason.code,
            detail=reason.detail[:MAX_DETAIL],
        )
    return _moved(
        record,
        Event.REVERTED,
        active=record.previous,
        previous=None,
        committed=True,
        quarantine=listed,
        update=update,
    )


def _moved(record: Record, event: Event, **changes: object) -> Record:
    """Return the record moved through the table; it is checked as if read anew."""
    data = {name: getattr(record, name) for name in Record.model_fields}
    state = after(record.state, event)
    moved = {"state": state, "event": event, "step": record.step + 1}
    return Record(**{**data, **changes, **moved})


def _settled(record: Record) -> Record:
    """Return the record with nothing staged and a committed model where there is one.

    A newer assignment may have interrupted a probation; if it comes to nothing, the
    last committed model serves, not the one whose probation was never finished.
    """
    changes: dict[str, object] = {"staged": None, "work": None}
    if not record.committed and record.previous is not None:
        changes |= {"active": record.previous, "previous": None, "committed": True}
    return record.model_copy(update=changes)


def _rolled_back(record: Record) -> Record:
    return record.model_copy(
        update={
            "active": record.previous,
            "previous": None,
            "staged": None,
            "work": None,
            "committed": record.previous is not None,
        }
    )


def _work(record: Record) -> Work:
    if record.work is None:
        raise RuntimeError(f"nothing is being carried out while {record.state}")
    return record.work


def _fresh(record: Record) -> Work:
    return _work(record).model_copy(update={"attempts": 0, "restarts": 0})


def _told(
    record: Record,
    outcome: Outcome,
    reason: Reason | None = None,
    *,
    received: int | None = None,
    duplicate: int | None = None,
) -> LastUpdate | None:
    """Return the outcome of the present work, unless a newer one was told already."""
    told, work = record.update, _work(record)
    if told is not None and told.sequence > work.sequence:
        return told
    same = told if told is not None and told.sequence == work.sequence else None
    return LastUpdate(
        sequence=work.sequence,
        digest=work.digest,
        outcome=outcome,
        code=reason.code if reason else None,
        detail=reason.detail[:MAX_DETAIL] if reason else "",
        received_bytes=_first(received, same.received_bytes if same else 0),
        duplicate_bytes=_first(duplicate, same.duplicate_bytes if same else 0),
    )


def _first(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _listed(
    listed: tuple[Quarantined, ...], new: Quarantined
) -> tuple[Quarantined, ...]:
    """Return the quarantine with ``new`` last; the oldest make room."""
    others = tuple(entry for entry in listed if entry.digest != new.digest)
    return (*others, new)[-MAX_QUARANTINE:]
