"""What one command leaves in the audit log.

An act that changes the database is recorded in the transaction that changes it. One
that changes something else (keys, the repository, the running controller) is recorded
before it begins and after it ended, so that one that was cut off shows as begun and
never ended. An act that failed is recorded as failed, in a transaction of its own: its
own has been undone.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from quarterdeck_controller.access.roles import OUTSIDE, Act
from quarterdeck_controller.store.ledger import By, Entry, Head, Outcome
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError

_MAX_REASON = 300


class Recording:
    """Takes note of what a command does, for the audit log.

    Attributes:
        store: The database, for transactions that are recorded.
    """

    def __init__(self, store: Store, by: By, clock: Clock, *, subject: str) -> None:
        self.store = store.acting(by, self._complete)
        self._plain = store.acting(by)
        self._by, self._clock, self._subject = by, clock, subject
        self._notes: dict[str, dict[str, object]] = {}
        self._begun: dict[str, object] = {}
        self._recorded = False

    def note(self, subject: str, **detail: object) -> None:
        """Name something that the act is done to, ``<noun>:<id>``, and tell of it.

        Each subject becomes one entry, in the transaction that is open or the next; to
        name it again adds to its detail.
        """
        self._notes.setdefault(subject, {}).update(detail)

    def begin(self) -> None:
        """Record that the act begins; how it ends names this entry."""
        entry = Entry(self._clock.now(), self._by.act, self._subject, Outcome.BEGUN)
        self._begun = {"begun": self._append(entry).number}

    def finish(self) -> None:
        """Record what is not recorded yet."""
        if self._notes or not self._recorded:
            with self.store.write():
                pass  # the store itself completes every transaction

    def fail(self, detail: dict[str, object]) -> None:
        """Record that the act failed; a log that cannot be written is no new error."""
        subject = next(iter(self._notes), self._subject)
        told = self._begun | self._notes.get(subject, {}) | detail
        entry = Entry(self._clock.now(), self._by.act, subject, Outcome.FAILED, told)
        with contextlib.suppress(QuarterdeckError):
            self._append(entry)

    def _append(self, entry: Entry) -> Head:
        with self._plain.write() as records:
            return records.audit.append(entry)

    def _complete(self, records: Records) -> None:
        """Leave at least one entry in the transaction that is about to be committed."""
        notes, self._notes = self._notes, {}
        if not notes and not records.audit.subjects:
            notes = {self._subject: {}}
        now, begun = self._clock.now(), self._begun
        records.audit.append(
            *(
                Entry(now, self._by.act, subject, detail=begun | detail)
                for subject, detail in notes.items()
                if detail or subject not in records.audit.subjects
            )
        )
        self._recorded = True


@contextmanager
def recorded(
    store: Store, by: By, act: Act, clock: Clock, *, subject: str = ""
) -> Iterator[Recording]:
    """Give the store for one act, and record how it goes; seeing leaves no record.

    ``subject`` is what the act is done to, where that is known before.
    """
    recording = Recording(store, by, clock, subject=subject)
    if act is Act.SEE:
        yield recording
        return
    if act in OUTSIDE:
        recording.begin()
    try:
        yield recording
    except BaseException as error:
        failure = _failure(error)
        if failure is None:
            recording.finish()
        else:
            recording.fail(failure)
        raise
    recording.finish()


def refused(
    store: Store, by: By, error: QuarterdeckError, clock: Clock, *, subject: str = ""
) -> None:
    """Record that somebody asked for what they may not do."""
    detail = {"code": str(error.code), "reason": error.detail[:_MAX_REASON]}
    entry = Entry(clock.now(), by.act, subject, Outcome.REFUSED, detail)
    # Who may not write the database is refused all the same.
    with contextlib.suppress(QuarterdeckError), store.acting(by).write() as records:
        records.audit.append(entry)


def _failure(error: BaseException) -> dict[str, object] | None:
    """Return what to tell of an end that was no success; None if it was one."""
    ended = getattr(error, "exit_code", getattr(error, "code", None))
    match error:
        case QuarterdeckError():
            return {"code": str(error.code), "reason": error.detail[:_MAX_REASON]}
        case KeyboardInterrupt() | asyncio.CancelledError():
            return {"code": "interrupted"}
        case _ if isinstance(ended, int):
            return {"exit": ended} if ended else None
        case _:
            return {"code": type(error).__name__, "reason": str(error)[:_MAX_REASON]}
