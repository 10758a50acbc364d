"""How many bytes may be published now: a token bucket. Pure."""

from dataclasses import dataclass

BURST_S = 0.1
"""An idle second must not be followed by a second's worth of frames at once."""


@dataclass(slots=True)
class Budget:
    """At most ``bytes_per_s`` over time; 0 is no limit.

    Attributes:
        saved: Bytes that may be spent now; a frame may overdraw it once.
    """

    bytes_per_s: int
    saved: float = 0.0
    counted_at: float = 0.0

    def wait_s(self, now: float) -> float:
        """Return how long to wait before the next frame; 0 for not at all."""
        if self.bytes_per_s == 0:
            return 0.0
        earned = (now - self.counted_at) * self.bytes_per_s
        self.saved = min(self.saved + earned, self.bytes_per_s * BURST_S)
        self.counted_at = now
        return max(0.0, -self.saved / self.bytes_per_s)

    def spend(self, size_bytes: int) -> None:
        """Count a frame that was published."""
        self.saved -= size_bytes
