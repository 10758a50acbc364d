"""Whether the audit log is as it was written (pure).

Every entry is checked against its own digest, against the columns it is searched by and
against the entry before; the whole against heads that somebody else has kept. What the
chain alone cannot show is an end that was cut off or written anew, since whoever can
write the file can compute digests too: that is what the kept heads are for.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from quarterdeck_controller.store.ledger import (
    START,
    VERSION,
    Head,
    Raw,
    canonical,
    digest_of,
)

MAX_FAULTS = 20
"""Faults that are told; one change can make many."""

PROGRESS_EVERY = 10_000
_FIELDS = frozenset(
    {"v", "number", "at", "actor", "role", "act", "subject", "outcome", "detail",
     "previous"}
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Witness:
    """A head that the log is held against.

    Attributes:
        where: What holds it, for people.
        outside: It was kept elsewhere: whoever changed the log could not change it.
    """

    where: str
    head: Head
    outside: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written.

    Attributes:
        number: Of the entry where it shows.
    """

    number: int
    what: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What an examination of the log has shown.

    Attributes:
        entries: How many were there.
        faults: What is wrong, by number; none means that nothing is.
        more: Faults that are not told.
        witnessed: The newest entry that a kept head vouches for.
        backwards: Entries that say an earlier time than the one before them. A clock
            that was set back does that: it is no fault.
    """

    entries: int
    head: Head
    faults: tuple[Fault, ...]
    more: int
    witnessed: int
    backwards: tuple[int, ...]


def examine(
    rows: Iterable[Raw],
    witnesses: Sequence[Witness] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Findings:
    """Return what is wrong with the log, entry by entry.

    ``progress`` is told now and then how many were examined.
    """
    examination = _Examination(witnesses)
    for count, row in enumerate(rows, start=1):
        examination.take(row)
        if count % PROGRESS_EVERY == 0:
            progress(count)
    return examination.findings()


@dataclass
class _Examination:
    witnesses: Sequence[Witness]
    before: Head = START
    entries: int = 0
    witnessed: int = 0
    faults: list[Fault] = field(default_factory=list)
    backwards: list[int] = field(default_factory=list)
    latest: str = ""

    def take(self, row: Raw) -> None:
        following = row.number == self.before.number + 1
        if not following:
            self._fault(row.number, _gap(self.before.number, row.number))
        told = _read(row)
        if isinstance(told, str):
            self._fault(row.number, told)
        else:
            self._follow(row, told, following=following)
        for witness in self.witnesses:
            if witness.head.number == row.number:
                self._compare(row, witness)
        self.entries += 1
        digest = row.digest.decode("ascii", "replace") if row.digest else ""
        self.before = Head(row.number, digest)

    def _follow(self, row: Raw, told: dict[str, object], *, following: bool) -> None:
        if following and told["previous"] != self.before.sha256:
            self._fault(
                row.number,
                f"it follows an entry {self.before.number} of digest"
                f" {_short(told['previous'])}, but that has"
                f" {_short(self.before.sha256)}: one of the two was replaced",
            )
        at = str(told["at"])
        if at < self.latest:
            self.backwards.append(row.number)
        self.latest = at

    def _compare(self, row: Raw, witness: Witness) -> None:
        kept = witness.head.sha256
        if row.digest == kept.encode():
            if witness.outside:
                self.witnessed = max(self.witnessed, row.number)
            return
        has = row.digest.decode("ascii", "replace") if row.digest else ""
        self._fault(
            row.number,
            f"it has digest {_short(has)}, but {witness.where} says {_short(kept)}:"
            " the log was written anew up to here",
        )

    def findings(self) -> Findings:
        for witness in self.witnesses:
            missing = witness.head.number - self.before.number
            if missing > 0:
                self._fault(
                    self.before.number,
                    f"the log ends here, but {witness.where} knows entry"
                    f" {witness.head.number}: the last {missing} were cut off",
                )
        return Findings(
            entries=self.entries,
            head=self.before,
            faults=tuple(self.faults[:MAX_FAULTS]),
            more=max(0, len(self.faults) - MAX_FAULTS),
            witnessed=self.witnessed,
            backwards=tuple(self.backwards),
        )

    def _fault(self, number: int, what: str) -> None:
        self.faults.append(Fault(number, what))


def _read(row: Raw) -> dict[str, object] | str:
    """Return what the entry says, or what is wrong with it by itself."""
    if row.body is None or row.types != Raw.TYPES:
        return f"its columns are of other types than were written: {row.types}"
    if (digest := digest_of(row.body)).encode() != row.digest:
        kept = row.digest.decode("ascii", "replace") if row.digest else ""
        return (
            f"it was changed: its bytes have digest {_short(digest)}, recorded was"
            f" {_short(kept)}"
        )
    told = _parsed(row.body)
    if told is None:
        return "its bytes are no entry that this log would have written"
    wrong = [
        name for name, value in _columns(told).items() if value != row.column(name)
    ]
    if wrong:
        said = ", ".join(
            f"{name} {_text(row.column(name))} (it says {_text(_columns(told)[name])})"
            for name in wrong
        )
        return f"its columns were changed: {said}"
    return told


def _parsed(body: bytes) -> dict[str, object] | None:
    try:
        told = json.loads(body)
        if not isinstance(told, dict) or told.keys() != _FIELDS:
            return None
        if told["v"] != VERSION or canonical(told).encode() != body:
            return None
        _microseconds(str(told["at"]))
    except (ValueError, RecursionError):
        return None
    return told


def _columns(told: dict[str, object]) -> dict[str, bytes]:
    """Return the columns of an entry as they must be."""
    texts = ("actor", "act", "subject", "outcome")
    return {
        "number": str(told["number"]).encode(),
        "at": _microseconds(str(told["at"])),
        **{name: str(told[name]).encode() for name in texts},
    }


def _microseconds(at: str) -> bytes:
    moment = datetime.fromisoformat(at)
    return str((moment - _EPOCH) // timedelta(microseconds=1)).encode()


def _gap(before: int, number: int) -> str:
    if number <= before:
        return f"it comes after entry {before}: the order was changed"
    if number == before + 2:
        return f"entry {before + 1} is missing"
    return f"entries {before + 1} to {number - 1} are missing"


def _short(digest: object) -> str:
    return str(digest)[:16] or "nothing"


def _text(value: bytes | None) -> str:
    return "nothing" if value is None else value.decode("utf-8", "replace")[:60]
