"""Intervals for shares and for the difference of two shares (pure).

Every inference is treated as independent here. Inferences of one device are not: a
fleet with few devices that differ much makes these intervals too narrow. The gate
that takes the device as its unit replaces this where there are enough devices.
"""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many."""

    ok: int
    total: int

    @property
    def value(self) -> float:
        """The share itself; ``total`` must not be 0."""
        return self.ok / self.total

    def __add__(self, other: "Share") -> "Share":
        """Return both together."""
        return Share(self.ok + other.ok, self.total + other.total)


def wilson(share: Share, alpha: float = 0.05) -> tuple[float, float]:
    """Return Wilson's two-sided interval of the true share; (0, 1) without data."""
    if share.total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(1 - alpha / 2)
    n, p = share.total, share.value
    middle = p + z * z / (2 * n)
    width = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


def drop(old: Share, new: Share, alpha: float) -> tuple[float, float]:
    """Return a lower and an upper bound of ``old - new``, each at ``alpha``.

    Newcombe's hybrid score interval (1998, method 10): sound at small counts and
    near 0 and 1, where the usual normal interval is not.
    """
    if 0 in (old.total, new.total):
        return -1.0, 1.0
    old_low, old_high = wilson(old, 2 * alpha)
    new_low, new_high = wilson(new, 2 * alpha)
    p, q = old.value, new.value
    low = p - q - sqrt((p - old_low) ** 2 + (new_high - q) ** 2)
    high = p - q + sqrt((old_high - p) ** 2 + (q - new_low) ** 2)
    return low, high
