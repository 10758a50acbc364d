"""The evaluation record: what was measured of a variant, and what was decided.

It is written as ``evaluation.json`` beside the variant, read when a release is
assembled, and travels to the device as a part of the artifact.
"""

from typing import Literal

from pydantic import ConfigDict, Field

from quarterdeck_shared.device import Requirements
from quarterdeck_shared.ids import ClassName, ModelName, Sha256
from quarterdeck_shared.index import Golden, Limits
from quarterdeck_shared.wire import Wire

MAX_EVALUATION_BYTES = 1 << 20

Metric = Literal["top1", "agreement", "closeness"]
"""``top1`` needs labels. Without them the score is the share of samples on which the
variant agrees with the float model: the same top class (``agreement``), or, where the
scores are no classes, scores within a tenth of float's (``closeness``)."""

Interval = tuple[float, float]


class Latency(Wire):
    """Latency of one inference at batch 1, milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


class Side(Wire):
    """What was measured of one model.

    Attributes:
        score: Value of the metric, from 0 to 1.
        ci95: Wilson's 95 % interval of the score.
        bytes: Size of the file.
        peak_memory_mb: Peak resident memory of a process that runs it, MiB.
    """

    score: float
    ci95: Interval
    bytes: int
    latency: Latency
    peak_memory_mb: float


class GoldenMeasured(Wire):
    """How closely the variant reproduced the golden vectors on this machine."""

    agreement: float
    error: float


class Tried(Wire):
    """One candidate and why it was or was not taken.

    Attributes:
        failure: Why it could not be built or measured; then the figures are absent.
        misses: The parts of the budget it did not meet, as sentences.
    """

    recipe: str
    failure: str | None = None
    misses: tuple[str, ...] = ()
    variant: Side | None = None
    agreement: float | None = None
    size_ratio: float | None = None
    latency_ratio: float | None = None
    peak_memory_ratio: float | None = None


class Provenance(Wire):
    """What went in, so that the same bytes can be made again."""

    model_sha256: Sha256
    calibration_sha256: Sha256
    evaluation_sha256: Sha256
    calibration_samples: int
    seed: int
    settings: dict[str, str | bool]
    versions: dict[str, str]
    machine_isa: tuple[str, ...]


class Evaluation(Wire):
    """``evaluation.json``.

    Attributes:
        recipe: The recipe of the variant, or of the nearest miss when refused; None
            when no candidate could be made at all.
        reference: The float model, ``float`` in the file.
        variant: Absent only when no candidate could be made at all.
        agreement: Share of samples on which the variant agrees with the float model.
        drop_points: Percentage points of score below the float model.
        latency_known: ``estimated`` when this machine is only a stand-in for the
            class. Then the scores come from this machine's kernels too; the golden
            vectors hold a device to them.
        golden: The thresholds that the device applies.
        golden_measured: What the variant reached here.
        labels: Names of the classes in the order of the scores; may be empty.
        threads: Intra-op threads, here and on the device.
        files: The sha256 of the files beside this one that it speaks of.
        tried: Every candidate.
        notes: What was done to the model on the way, and what to know.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    v: Literal[1] = 1
    name: ModelName
    device_class: ClassName
    recipe: str | None = Field(max_length=64)
    decision: Literal["accepted", "refused"]
    reason: str
    metric: Metric
    samples: int
    reference: Side = Field(alias="float")
    variant: Side | None
    agreement: float | None
    drop_points: float | None
    size_ratio: float | None
    latency_ratio: float | None
    latency_known: Literal["measured", "estimated"]
    peak_memory_ratio: float | None
    golden: Golden
    golden_measured: GoldenMeasured | None
    requires: Requirements
    limits: Limits
    labels: tuple[str, ...] = Field(default=(), max_length=4096)
    threads: int = Field(default=1, ge=1, le=64)
    files: dict[str, Sha256]
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]
    provenance: Provenance
