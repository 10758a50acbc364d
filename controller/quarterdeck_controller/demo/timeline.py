"""What was seen of the fleet while the demo ran, for its summary and its pictures."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from quarterdeck_controller.store.records import Standing


@dataclass(frozen=True, slots=True)
class Change:
    """A device reported that it runs something else.

    Attributes:
        at_s: Seconds since the demo began.
        release: What it runs now; None for nothing yet.
    """

    at_s: float
    device: str
    release: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """Something the demo did, at a moment."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A device refused something, or undid it."""

    at_s: float
    device: str
    code: str


@dataclass(slots=True)
class Timeline:
    """Changes, marks and refusals in the order in which they were seen.

    A look may miss a state that did not last; refusals are told by the devices' own
    events, and none is missed.
    """

    changes: list[Change] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    _last: dict[str, Change] = field(default_factory=dict)

    def mark(self, at_s: float, text: str) -> None:
        """Note what the demo does."""
        self.marks.append(Mark(at_s, text))

    def see(self, at_s: float, standings: Iterable[Standing]) -> None:
        """Note what each device reports, where it differs from before."""
        for standing in standings:
            seen = Change(at_s, standing.device, standing.active_release)
            last = self._last.get(standing.device)
            if last is None or last.release != seen.release:
                self._last[standing.device] = seen
                self.changes.append(seen)

    def of(self, device: str) -> list[Change]:
        """Return the changes of one device."""
        return [change for change in self.changes if change.device == device]
