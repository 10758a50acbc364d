"""``search.json``: everything that was tried for one class, and why.

Reports and comparisons are made from it; it does not travel to devices.
"""

from typing import Literal

from pydantic import Field

from quarterdeck_controller.optimize.evaluation import Kernels, Latency
from quarterdeck_shared.ids import ClassName, ModelName
from quarterdeck_shared.wire import Wire

Rung = Literal[
    "lint",
    "prepare",
    "float",
    "floor",
    "calibrate",
    "static",
    "sensitivity",
    "mixed",
    "repair",
    "train",
    "confirm",
]
"""The steps of the ladder, from cheap to costly."""


class Tried(Wire):
    """One candidate, as the selection samples and the runtime saw it.

    Attributes:
        why: Why it was tried.
        failure: Why it could not be built or measured; then the figures are absent.
        misses: The parts of the budget it did not meet, as sentences.
        on_front: Whether no other candidate is at least as good in accuracy, size and
            latency and better in one.
        taken: Whether it became the variant.
    """

    recipe: str
    rung: Rung
    why: str
    failure: str | None = None
    misses: tuple[str, ...] = ()
    on_front: bool = False
    taken: bool = False
    score: float | None = None
    drop_points: float | None = None
    agreement: float | None = None
    bytes: int | None = None
    size_ratio: float | None = None
    latency: Latency | None = None
    latency_ratio: float | None = None
    peak_memory_mb: float | None = None
    peak_memory_ratio: float | None = None
    kernels: Kernels | None = None
    treated: dict[str, int] = Field(default_factory=dict)


class Said(Wire):
    """A step of the search, and why it was taken or left out."""

    rung: Rung
    sentence: str
    seconds: float
    cached: bool = False


class SensitiveNode(Wire):
    """What quantizing one operator alone costs; see ``steps.Sensitivity``."""

    name: str
    operator: str
    sqnr_db: float
    bytes: int
    treatment: str


class Histogram(Wire):
    """The spread of one tensor that quantizes badly.

    Attributes:
        edges: One more than there are counts.
        taken: The range that was quantized.
    """

    tensor: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    taken: tuple[float, float]
    sqnr_db: float


class TimeShare(Wire):
    """One type of kernel: how many, and its share of the time of an inference."""

    operator: str
    count: int
    share: float
    integer: bool


class TrainingPoint(Wire):
    """One checkpoint of quantization-aware training."""

    step: int
    loss: float
    agreement: float


class Allowed(Wire):
    """The class's budget, as every candidate was held against it.

    Attributes:
        drop_points: Points below float; None where nothing is labelled.
        agreement: Share of samples that must agree with float; None with labels.
        latency_ms: Of the 90th percentile.
    """

    drop_points: float | None
    agreement: float | None
    size_ratio: float
    latency_ratio: float
    latency_ms: float
    memory_mb: float


class Story(Wire):
    """``search.json``."""

    v: Literal[1] = 1
    name: ModelName
    device_class: ClassName
    metric: str
    unit: str
    seconds: float
    reference_score: float
    reference_bytes: int
    tried: tuple[Tried, ...]
    said: tuple[Said, ...]
    allowed: Allowed | None = None
    sensitivity: tuple[SensitiveNode, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    float_time: tuple[TimeShare, ...] = ()
    variant_time: tuple[TimeShare, ...] = ()
    training: tuple[TrainingPoint, ...] = ()
