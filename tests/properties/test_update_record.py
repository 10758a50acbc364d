"""Whatever happens to a device in whatever order, its record stays sound."""

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from quarterdeck_agent.update import decide
from quarterdeck_agent.update import record as steps
from quarterdeck_agent.update.record import Reason, Record
from quarterdeck_agent.update.transitions import Event, State
from quarterdeck_shared.assignment import Assignment, Target
from quarterdeck_shared.codes import Code

START = datetime(2026, 1, 1, tzinfo=UTC)
DIGESTS = [character * 64 for character in "abcd"]
WHY = Reason(Code.GOLDEN_FAILED, "for a test")


def assignment(sequence: int, digest: str) -> Assignment:
    return Assignment(
        device="dev-1",
        device_class="gateway",
        sequence=sequence,
        issued=START,
        expires=START + timedelta(days=1),
        release="toy@1",
        target=Target(path="classes/gateway/toy-1.idx", length=1, sha256=digest),
    )


class Device(RuleBasedStateMachine):
    """A device to which everything that can happen happens."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.sequence = 0
        self.proven: set[str] = set()
        self.has_committed = False
        self.step = 0

    def move(self, record: Record) -> None:
        assert record.step == self.record.step + 1
        assert Record.decode(record.encode()) == record
        self.record = record

    @rule(digest=st.sampled_from(DIGESTS), allowed=st.booleans())
    def is_assigned(self, digest: str, *, allowed: bool) -> None:
        self.sequence += 1
        wanted = assignment(self.sequence, digest)
        mark = f"{self.sequence:064x}"
        event = decide.begin(self.record, digest)
        if event is Event.KEPT:
            self.move(steps.kept(self.record, wanted, mark))
        elif allowed:
            self.move(steps.assigned(self.record, event, wanted, mark))
        else:
            self.move(steps.refused(self.record, wanted, mark, WHY))

    @rule(digest=st.sampled_from(DIGESTS))
    def is_brought_on_probation(self, digest: str) -> None:
        """What single rules seldom do in a row, so that what follows is reached."""
        self.is_assigned(digest, allowed=True)
        if self.record.state is State.FETCHING:
            self.has_fetched()
        if self.record.state is State.PROVING:
            self.has_proved(sound=True)

    @rule(digest=st.sampled_from(DIGESTS))
    def is_updated(self, digest: str) -> None:
        self.is_brought_on_probation(digest)
        if self.record.state is State.PROBATION:
            self.passes()

    @rule()
    def is_restarted(self) -> None:
        self.move(steps.restarted(self.record))
        if decide.after_restart(self.record) is not None:
            self.move(steps.failed(self.record, WHY, quarantine=True))

    @precondition(lambda self: self.record.state is State.FETCHING)
    @rule()
    def has_fetched(self) -> None:
        self.move(steps.fetched(self.record, 10, 0))

    @precondition(lambda self: self.record.state in (State.FETCHING, State.PROVING))
    @rule()
    def must_wait(self) -> None:
        self.move(steps.deferred(self.record, WHY))

    @precondition(lambda self: self.record.state is State.PROVING)
    @rule(sound=st.booleans())
    def has_proved(self, *, sound: bool) -> None:
        if not sound:
            self.move(steps.damaged(self.record))
            return
        assert self.record.staged is not None
        self.proven.add(self.record.staged.digest)
        self.move(steps.proved(self.record))

    @precondition(lambda self: self.record.state is not State.IDLE)
    @rule(quarantine=st.booleans())
    def fails(self, *, quarantine: bool) -> None:
        self.move(steps.failed(self.record, WHY, quarantine=quarantine))

    @precondition(lambda self: self.record.state is State.PROBATION)
    @rule()
    def passes(self) -> None:
        self.move(steps.passed(self.record))
        self.has_committed = True

    @precondition(
        lambda self: (
            self.record.state is not State.PROBATION
            and self.record.previous is not None
        )
    )
    @rule()
    def keeps_crashing(self) -> None:
        self.move(steps.reverted(self.record, WHY, quarantine=True))

    @invariant()
    def only_proven_models_are_active(self) -> None:
        if self.record.active is not None:
            assert self.record.active.digest in self.proven

    @invariant()
    def there_is_a_model_once_one_was_committed(self) -> None:
        if self.has_committed:
            assert self.record.active is not None

    @invariant()
    def the_state_and_what_is_in_hand_agree(self) -> None:
        record = self.record
        work = record.work
        match record.state:
            case State.IDLE:
                assert work is None
                assert record.staged is None
                assert record.committed or record.previous is None
            case State.PROBATION:
                assert work is not None
                assert record.active is not None
                assert record.active.digest == work.digest
                assert not record.committed
            case State.FETCHING | State.PROVING:
                assert work is not None
                assert record.staged is not None
                assert record.staged.digest == work.digest

    @invariant()
    def no_model_is_its_own_fallback(self) -> None:
        if self.record.active is not None and self.record.previous is not None:
            assert self.record.active.digest != self.record.previous.digest

    @invariant()
    def the_outcome_is_of_the_newest_assignment(self) -> None:
        update = self.record.update
        assert update is None or update.sequence == self.record.sequence


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
