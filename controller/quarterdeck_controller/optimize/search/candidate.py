"""A recipe that was tried, with what was seen of it."""

from dataclasses import dataclass

from quarterdeck_controller.optimize.evaluation import Kernels, Latency, LatencyKnown
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.story import Rung


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a candidate, against float in the same run.

    Attributes:
        labelled: Whether the score compares with labels; else it is agreement.
        unit: Of a point of the metric.
        drop_points: Points of the metric below float on the selection samples.
        agreement: Share of the selection samples on which it agrees with float.
        latency_ratio: Median latency as a share of float's.
        latency_known: Where that is known from.
        golden_agreement: Share of golden vectors with a clear margin that keep the
            top class.
        golden_clear: How many have a clear margin.
        golden_error: Error on the golden vectors, as a share of the scores.
        treated: How many operators got which treatment.
    """

    metric: str
    unit: str
    labelled: bool
    samples: int
    score: float
    reference_score: float
    drop_points: float
    agreement: float
    bytes: int
    reference_bytes: int
    latency: Latency
    reference_latency: Latency
    latency_ratio: float
    latency_known: LatencyKnown
    peak_memory_mb: float
    reference_peak_memory_mb: float
    load_ms: float
    golden_agreement: float
    golden_clear: int
    golden_error: float
    kernels: Kernels
    treated: tuple[tuple[str, int], ...]

    @property
    def size_ratio(self) -> float:
        """Bytes as a share of float's."""
        return self.bytes / self.reference_bytes

    @property
    def memory_ratio(self) -> float:
        """Peak memory as a share of float's."""
        return self.peak_memory_mb / max(self.reference_peak_memory_mb, 1.0)

    @property
    def loss(self) -> float:
        """How far it is from float, in points: what it lost, and where it differs."""
        return max(self.drop_points, 0.0) + 10 * (1 - self.agreement)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that was tried: its figures, or why there are none.

    Attributes:
        why: Why it was tried.
    """

    recipe: Recipe
    rung: Rung
    why: str
    figures: Figures | None
    failure: str | None = None
