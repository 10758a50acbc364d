"""What was seen of the fleet while the demo ran, for its summary and its pictures."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from quarterdeck_controller.store.records import Standing


@dataclass(frozen=True, slots=True)
class Change:
    """A device reported something new.

    Attributes:
        at_s: Seconds since the demo began.
        release: What it runs now; None for nothing yet.
        outcome: How its newest assignment stands.
        code: Why, when it was refused, rolled back or deferred.
    """

    at_s: float
    device: str
    release: str | None
    outcome: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """Something the demo did, at a moment."""

    at_s: float
    text: str


@dataclass(slots=True)
class Timeline:
    """Changes and marks in the order in which they were seen."""

    changes: list[Change] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    _last: dict[str, Change] = field(default_factory=dict)

    def mark(self, at_s: float, text: str) -> None:
        """Note what the demo does."""
        self.marks.append(Mark(at_s, text))

    def see(self, at_s: float, standings: Iterable[Standing]) -> None:
        """Note what each device reports, where it differs from before."""
        for standing in standings:
            seen = Change(
                at_s,
                standing.device,
                standing.active_release,
                standing.outcome,
                str(standing.code) if standing.code else None,
            )
            last = self._last.get(standing.device)
            if last is None or _facts(last) != _facts(seen):
                self._last[standing.device] = seen
                self.changes.append(seen)

    def of(self, device: str) -> list[Change]:
        """Return the changes of one device."""
        return [change for change in self.changes if change.device == device]

    def codes(self, device: str) -> set[str]:
        """Return every reason that ``device`` has reported."""
        return {change.code for change in self.of(device) if change.code}


def _facts(change: Change) -> tuple[str | None, str | None, str | None]:
    return change.release, change.outcome, change.code
