"""How long to wait before the next attempt to connect. Pure."""

from dataclasses import dataclass, replace
from typing import Protocol

FIRST_S = 0.2
"""A broker that restarts is back within a second or two: the first try is soon."""

LONGEST_S = 30.0
"""A fleet that waits for its broker knocks at most this seldom."""

STABLE_S = 30.0
"""A session that lasted this long was healthy: its loss starts the waits anew."""

SHORT_S = 3.0
"""A session that was cut this soon after it began looks turned away."""

SHORTS = 3
"""So many short sessions in a row are taken for a broker that does not want us: some
let everybody in whose certificate is good, and hang up at what is not allowed."""

TURNED_AWAY_S = 5.0
"""A client that is turned away tries again at most this often."""


class Rng(Protocol):
    """Where the jitter comes from: a ``random.Random``."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between ``a`` and ``b``."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """What is remembered between attempts."""

    attempts: int = 0
    shorts: int = 0

    @property
    def looks_turned_away(self) -> bool:
        """Whether sessions keep being cut right after they began."""
        return self.shorts >= SHORTS

    def after_failure(self) -> "Backoff":
        """Return what to remember when no session came up."""
        return replace(self, attempts=self.attempts + 1)

    def after_loss(self, lasted_s: float) -> "Backoff":
        """Return what to remember when a session was lost after ``lasted_s``."""
        if lasted_s >= STABLE_S:
            return Backoff()
        shorts = self.shorts + 1 if lasted_s < SHORT_S else self.shorts
        return Backoff(self.attempts + 1, shorts)

    def delay_s(self, rng: Rng) -> float:
        """Return the wait before the next attempt, with jitter against herds."""
        longest = min(LONGEST_S, FIRST_S * 2.0 ** min(self.attempts, 16))
        if self.looks_turned_away:
            longest = max(longest, TURNED_AWAY_S)
        return longest * rng.uniform(0.5, 1.0)
