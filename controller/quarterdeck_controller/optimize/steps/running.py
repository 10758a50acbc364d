"""What is asked of the steps that run a model: to judge it, and what it costs."""

from pathlib import Path

from quarterdeck_controller.optimize.evaluation import Baselines
from quarterdeck_controller.optimize.steps.record import Record
from quarterdeck_shared.index import Golden
from quarterdeck_shared.session import Session

VALUES = "values.npy"
GOLDEN = "golden"


class RunRequest(Record):
    """Run a model on stored samples and store every output.

    Attributes:
        rows: Which samples; None is all.
        batch: How many at once.
    """

    model: Path
    out: Path
    samples: Path
    session: Session
    batch: int
    rows: tuple[int, ...] | None = None


class Ran(Record):
    """The outputs are in the folder, in the order of the rows."""

    count: int


class ReplayRequest(Record):
    """Run a model of doubtful origin once on its golden vectors.

    Attributes:
        golden: The file of vectors.
        thresholds: How closely they must be reproduced.
        seconds: Processor time.
    """

    model: Path
    golden: Path
    session: Session
    thresholds: Golden
    seconds: int


class Replayed(Record):
    """What came of it.

    Attributes:
        finite: Whether every score is a finite number.
        error: As in ``golden.Compared``; None when it is not finite.
        reproduces: Whether that is within the thresholds.
        grown_mb: By how much the process' peak memory grew with the model, MiB.
    """

    count: int
    finite: bool
    agreement: float
    error: float | None
    reproduces: bool
    grown_mb: float


class EmulateRequest(Record):
    """Do what ``run`` does on an emulated processor.

    Attributes:
        processor: By the emulator's name; see ``measure.emulate``.
        runtime: Version of the runtime there.
    """

    model: Path
    out: Path
    samples: Path
    session: Session
    rows: tuple[int, ...]
    processor: str
    runtime: str


class ScoreRequest(Record):
    """Run a model on stored samples and judge its outputs.

    Attributes:
        rows: Which samples, in this order.
        metric: As the operator named it; empty is the one that fits the data.
        metric_sha256: Of the files that the metric names, so that a result is not
            taken for that of another metric.
        labels: One entry for each stored sample, as ``.npy``; None where there are
            none.
        names: Names of the classes, in the order of the scores.
        reference: The float model's stored outputs for the same rows; None when this
            is the float model itself.
        baselines: Whether to say how inputs and answers are spread.
        golden: Samples to replay one at a time, as a device does.
        out: A folder for ``VALUES`` and the stored outputs of ``golden``, ``GOLDEN``.
    """

    model: Path
    out: Path
    samples: Path
    session: Session
    batch: int
    rows: tuple[int, ...]
    metric: str
    metric_sha256: str = ""
    output: str
    labels: Path | None
    names: tuple[str, ...] = ()
    reference: Path | None = None
    seed: int = 0
    baselines: bool = False
    golden: tuple[int, ...] = ()


class ClassScored(Record):
    """The score on one class alone."""

    name: str
    samples: int
    score: float


class Scored(Record):
    """How good the outputs are.

    Attributes:
        metric: Name of the metric.
        unit: Of a point of it.
        labelled: Whether it compares with labels, or with the float model.
        values: The metric's values, sample by sample, are in the file ``VALUES``.
        drop_points: Points below the float model, with the 95 % interval from paired
            samples; 0 for the float model itself.
        agreement: Share of samples on which it agrees with the float model.
        broken: Samples whose outputs are not finite; they count as wrong.
    """

    metric: str
    unit: str
    labelled: bool
    score: float
    ci95: tuple[float, float]
    drop_points: float
    drop_ci95: tuple[float, float]
    agreement: float
    classes: tuple[ClassScored, ...]
    samples: int
    broken: int
    baselines: Baselines | None = None
    notes: tuple[str, ...] = ()


class AuditRequest(Record):
    """Find which kernels run after the runtime's own optimization.

    Attributes:
        samples: The first stored sample is run to see where the time goes.
    """

    model: Path
    samples: Path
    session: Session


class Kernel(Record):
    """All kernels of one type.

    Attributes:
        share: Of the time of one inference.
        integer: Whether it multiplies integers.
    """

    operator: str
    count: int
    share: float
    integer: bool


class Audit(Record):
    """What really runs.

    Attributes:
        integer: Kernels that multiply integers.
        heavy_float: Convolutions and matrix products that run in float.
        conversions: Quantize and dequantize kernels that are left over.
        conversion_share: Share of the time that these take.
        fingerprint: The sorted counts of all kernels, to see whether a change to the
            file changed what runs.
    """

    integer: int
    heavy_float: int
    conversions: int
    conversion_share: float
    kernels: tuple[Kernel, ...]
    fingerprint: str


class MeasureRequest(Record):
    """Find what one inference costs, in turns with the float model.

    Attributes:
        reference: The float model; None when this is the float model itself.
        samples: The first stored sample is run.
        audit: Whether to look at the kernels as well, after all has been measured.
    """

    model: Path
    reference: Path | None
    samples: Path
    session: Session
    audit: bool = False


class Times(Record):
    """Latencies of one inference at batch 1, milliseconds.

    Attributes:
        cpu_ms: Processor time of one inference, over all threads: what stands in for
            energy.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    cpu_ms: float


class Measured(Record):
    """What was measured.

    Attributes:
        peak_memory_mb: Peak resident memory of a process that loads and runs it.
        load_ms: From the file to a session that answers.
        ratio: Median latency as a share of the float model's, taken pair by pair from
            the turns, so that what slows the machine down hits both.
    """

    peak_memory_mb: float
    load_ms: float
    times: Times
    reference_times: Times | None
    ratio: float | None
    audit: Audit | None = None
