"""The evaluation record: what was measured of a variant, and what was decided.

It is written as ``evaluation.json`` beside the variant, read when a release is
assembled, and travels to the device as a part of the artifact. What was tried on the
way is in ``search.json`` (``search.record``), which stays.
"""

from typing import Literal

from pydantic import AwareDatetime, ConfigDict, Field

from quarterdeck_shared.device import Requirements
from quarterdeck_shared.ids import ClassName, ModelName, Sha256
from quarterdeck_shared.index import Golden, Limits
from quarterdeck_shared.session import Session
from quarterdeck_shared.wire import Wire

MAX_EVALUATION_BYTES = 1 << 20

Interval = tuple[float, float]
LatencyKnown = Literal["measured", "reference", "estimated"]


class Latency(Wire):
    """Latency of one inference at batch 1, milliseconds.

    Attributes:
        cpu_ms: Processor time of one inference, over all threads.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    cpu_ms: float


class ClassScore(Wire):
    """The score on the samples of one class alone.

    Attributes:
        name: The class's name, or its number where it has none.
    """

    name: str = Field(max_length=200)
    samples: int
    score: float


class Kernels(Wire):
    """What really runs after the runtime's own optimization.

    Attributes:
        integer: Kernels that multiply integers.
        heavy_float: Convolutions and matrix products that run in float.
        conversions: Quantize and dequantize kernels that are left over.
        conversion_share: Share of the time that these take.
    """

    integer: int
    heavy_float: int
    conversions: int
    conversion_share: float


class Side(Wire):
    """What was measured of one model.

    Attributes:
        score: Value of the metric.
        ci95: 95 % interval of the score.
        bytes: Size of the file.
        compressed_bytes: The same by zlib, as a link or a package would carry it.
        peak_memory_mb: Peak resident memory of a process that runs it, MiB.
        load_ms: From the file to a session that answers.
    """

    score: float
    ci95: Interval
    bytes: int
    compressed_bytes: int
    latency: Latency
    peak_memory_mb: float
    load_ms: float
    kernels: Kernels | None = None
    classes: tuple[ClassScore, ...] = Field(default=(), max_length=1024)


class GoldenMeasured(Wire):
    """How closely the variant reproduced the golden vectors on one kind of processor.

    Attributes:
        processor: ``here``, or the emulated processor.
        agreement: Share of the vectors with a clear margin that keep the top class.
        error: Root-mean-square error as a share of the expected scores'.
        sqnr_db: The same in decibels.
    """

    processor: str = Field(max_length=64)
    agreement: float
    error: float
    sqnr_db: float


class InputBaseline(Wire):
    """How one input of the model was spread in the evaluation data.

    Attributes:
        deciles: Minimum, the nine deciles, and maximum of the samples' means.
        spreads: The same of the samples' standard deviations.
    """

    name: str
    deciles: tuple[float, ...] = Field(min_length=11, max_length=11)
    spreads: tuple[float, ...] = Field(min_length=11, max_length=11)


class Baselines(Wire):
    """What drift is measured from, of the variant on the test data.

    Attributes:
        samples: How many these are; a finite baseline is not exact.
        class_shares: Share of each class among the top classes; empty when the scores
            are no classes.
        confidences: Share of samples whose best score, as a probability, falls in each
            of 16 equal bins from 0 to 1; empty when the scores are no classes.
    """

    samples: int
    inputs: tuple[InputBaseline, ...] = Field(default=(), max_length=64)
    class_shares: tuple[float, ...] = Field(default=(), max_length=4096)
    confidences: tuple[float, ...] = Field(default=(), max_length=16)


class Provenance(Wire):
    """What went in, so that the same bytes can be made again, and the run that did it.

    Attributes:
        profile_sha256: Of the class profile's canonical form (``Profile.sha256``).
        invocation: Drawn for the run; all classes of one run share it.
    """

    model_sha256: Sha256
    calibration_sha256: Sha256
    evaluation_sha256: Sha256
    calibration_samples: int
    seed: int
    settings: dict[str, str | bool]
    overrides: tuple[tuple[str, str], ...] = Field(default=(), max_length=65536)
    versions: dict[str, str]
    machine_isa: tuple[str, ...]
    profile_sha256: Sha256
    invocation: str = Field(min_length=1, max_length=100)
    started: AwareDatetime
    finished: AwareDatetime


class Evaluation(Wire):
    """``evaluation.json``.

    Attributes:
        recipe: The recipe of the variant, or of the nearest miss when refused; None
            when no candidate could be made at all.
        metric: Name of what the score is; ``unit`` is that of a point of it.
        samples: Test samples: none of them took part in choosing.
        selection_samples: Samples that chose the recipe.
        looks: How many candidates were held against the test samples, one after the
            other, each closer to float than the one before; 1 when the first held.
        reference: The float model, ``float`` in the file.
        variant: Absent only when no candidate could be made at all.
        agreement: Share of test samples on which variant and float agree.
        drop_points: Points of the metric below the float model.
        drop_ci95: 95 % interval of the drop, from the paired samples.
        latency_known: ``measured`` on this machine, which is one of the class, on a
            ``reference`` device of the class, or ``estimated``: this machine is only a
            stand-in.
        golden: The thresholds that the device applies.
        golden_measured: What the variant reached, here and on emulated processors of
            the class.
        session: How the device opens the model.
        labels: Names of the classes in the order of the scores; may be empty.
        files: The sha256 of the files beside this one that it speaks of.
        notes: What was done to the model on the way, and what to know.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    v: Literal[3] = 3
    name: ModelName
    device_class: ClassName
    recipe: str | None = Field(max_length=64)
    decision: Literal["accepted", "refused"]
    reason: str
    metric: str = Field(max_length=200)
    unit: str = Field(max_length=40)
    samples: int
    selection_samples: int
    looks: int = Field(ge=0)
    reference: Side = Field(alias="float")
    variant: Side | None
    agreement: float | None
    drop_points: float | None
    drop_ci95: Interval | None
    size_ratio: float | None
    latency_ratio: float | None
    latency_known: LatencyKnown
    peak_memory_ratio: float | None
    golden: Golden
    golden_measured: tuple[GoldenMeasured, ...] = Field(max_length=16)
    requires: Requirements
    limits: Limits
    session: Session
    labels: tuple[str, ...] = Field(default=(), max_length=4096)
    files: dict[str, Sha256]
    baselines: Baselines | None
    notes: tuple[str, ...]
    provenance: Provenance
