"""What is asked of a child process and what it answers, one pair per step.

Everything that touches the model runs in a child (``sandbox.py``): a model can crash,
hang or swell the runtime. The two sides share this module and files in a folder.
Samples and outputs pass as folders that ``data.stored`` writes and maps.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from quarterdeck_controller.optimize.evaluation import Baselines
from quarterdeck_controller.optimize.recipe import Recipe, Repair
from quarterdeck_shared.session import Session

VALUES = "values.npy"
GOLDEN = "golden"

StepName = Literal[
    "load",
    "inspect",
    "export",
    "prepare",
    "repair",
    "calibrate",
    "build",
    "finish",
    "run",
    "score",
    "emulate",
    "measure",
    "sense",
    "train",
]


class Record(BaseModel):
    """A request or an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(Record):
    """An input or output; None is a dimension that is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


# load ---------------------------------------------------------------------------------


class LoadRequest(Record):
    """Read samples from wherever they are into a folder of stored samples.

    Attributes:
        source: What the operator gave: a ``.npz`` file, a folder, or the Python entry
            point ``module:function`` or ``file.py:function``.
        inputs: The model's inputs, which the samples must fit.
        most: Take at most so many, evenly spaced where the source knows its length.
    """

    source: str
    out: Path
    inputs: tuple[Tensor, ...]
    most: int | None = None


class Loaded(Record):
    """The samples, stored; labels and groups beside them.

    Attributes:
        labels: Whether there is a ``labels.npy``, one entry a sample, of any shape.
        groups: Whether there is a ``groups.npy``: samples of one group (a person, a
            recording, a machine) must not be split between selection and test.
        sha256: Of every sample, label and group, in order.
    """

    count: int
    labels: bool
    groups: bool
    sha256: str
    notes: tuple[str, ...] = ()


# inspect ------------------------------------------------------------------------------


class InspectRequest(Record):
    """Look at the file and refuse what cannot be optimized, or run."""

    model: Path
    quantized: bool = False


class Source(Record):
    """What the model is.

    Attributes:
        sha256: Of the model file and of the external data it names.
        bytes: Of the same.
        score_output: The output that is judged where a metric does not say which: the
            first of floats.
        operators: How often each operator occurs.
        external: Files beside the model that hold its weights.
        notes: What will be hard, as sentences.
    """

    sha256: str
    bytes: int
    opset: int
    ir_version: int
    producer: str
    parameters: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    score_output: str
    operators: dict[str, int]
    external: tuple[str, ...] = ()
    notes: tuple[str, ...]


class ExportRequest(Record):
    """Make an ONNX model of a PyTorch module.

    Attributes:
        source: ``module:function`` or ``file.py:function``; the function returns the
            module and its example inputs.
    """

    source: str
    out: Path


class Exported(Record):
    """The model is in the file."""

    notes: tuple[str, ...]


# prepare ------------------------------------------------------------------------------


class PrepareRequest(Record):
    """Make the graph ready for quantization, and check that it still says the same.

    Attributes:
        samples: Stored samples to check with.
    """

    model: Path
    out: Path
    samples: Path


class Node(Record):
    """An operator of the prepared graph that holds weights or multiplies.

    Attributes:
        name: Unique in the prepared graph, subgraphs included; recipes name it so.
        bytes: Size of its float weights; 0 when it multiplies two activations.
        channels: Output channels of its weights.
        imbalance: Largest over median magnitude of its output channels' weights.
        inside: The control-flow operator whose subgraph it is in, or empty.
    """

    name: str
    operator: str
    bytes: int
    channels: int = 0
    imbalance: float = 1.0
    inside: str = ""


class Prepared(Record):
    """The prepared model.

    Attributes:
        batch: How many samples may be run at once: 1 when a sample's scores depend
            on the others, or when the graph does not take more.
        nodes: What can be given a treatment, in the graph's order.
    """

    batch: int
    nodes: tuple[Node, ...]
    notes: tuple[str, ...]


# repair, calibrate, build -------------------------------------------------------------


class RepairRequest(Record):
    """Change the prepared float graph so that it quantizes better; see GRAPH_REPAIRS.

    Attributes:
        samples: Stored calibration samples.
    """

    model: Path
    out: Path
    repairs: tuple[Repair, ...]
    samples: Path
    batch: int


class Repaired(Record):
    """The graph computes the same.

    Attributes:
        changed: How many operators were changed; 0 when there was nothing to mend.
    """

    changed: int
    notes: tuple[str, ...]


class CalibrateRequest(Record):
    """Find the spread of every float tensor from which any range follows.

    Attributes:
        out: A file for ``quantize.calibrate`` to read.
    """

    model: Path
    out: Path
    samples: Path
    batch: int


class Calibrated(Record):
    """The spreads are in the file."""

    tensors: int
    notes: tuple[str, ...] = ()


class BuildRequest(Record):
    """Make a variant by a recipe.

    Attributes:
        model: The prepared graph, after the recipe's graph repairs.
        spreads: What ``calibrate`` found in it.
        samples: Stored calibration samples, for the recipe's tuning repairs.
        output: The output that is judged; the variant gives it first, where devices
            look for it.
        operators: Operators that the class's runtime quantizes; empty is all.
        fold: Whether weights-only operators are written so that the runtime makes
            them float once, when it loads. Else they are made float at every run,
            which is slower and keeps memory small.
        names: Whether the names of operators are kept, as training and sensitivity
            need them; a variant for a device does without.
        precise: Whether devices open it with ``Session.precise``.
    """

    model: Path
    out: Path
    recipe: Recipe
    spreads: Path
    samples: Path
    output: str
    batch: int
    operators: tuple[str, ...] = ()
    fold: bool = True
    names: bool = False
    precise: bool = False


class Built(Record):
    """The variant.

    Attributes:
        treated: How many operators got which treatment.
    """

    bytes: int
    treated: dict[str, int]
    notes: tuple[str, ...]


class FinishRequest(Record):
    """Make a variant that was built with ``names`` into a device's file.

    Attributes:
        output: The judged output, given first.
        precise: Whether devices open it with ``Session.precise``.
    """

    model: Path
    out: Path
    output: str
    precise: bool = False


class Finished(Record):
    """The file, smaller and the same."""

    bytes: int


# run, score, measure, audit --------------------------------------------------------


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


# sense, train -------------------------------------------------------------------------


class SenseRequest(Record):
    """Find what each operator's treatment alone costs in accuracy.

    Attributes:
        recipe: What every operator is given, one at a time.
        rows: How many calibration samples to compare on.
        seconds: Stop after so long; the operators not reached are left out.
    """

    model: Path
    spreads: Path
    recipe: Recipe
    samples: Path
    output: str
    batch: int
    operators: tuple[str, ...] = ()
    rows: int = 8
    seconds: float = 120


class Sensitivity(Record):
    """One operator.

    Attributes:
        sqnr_db: Signal to quantization noise of the judged output when only this
            operator is quantized; higher is better.
        share: Of the multiplications of all these operators that it does.
    """

    name: str
    operator: str
    sqnr_db: float
    bytes: int
    share: float = 0.0


class Sensed(Record):
    """Every operator that was reached, the worst first."""

    nodes: tuple[Sensitivity, ...]
    complete: bool


class TrainRequest(Record):
    """Train a quantized graph to answer like the float graph.

    Attributes:
        model: A variant in the QDQ format that was built with ``names``.
        reference: The prepared float graph.
        labels: Integer classes of the samples as ``.npy``, to learn from as well; None
            is self-distillation alone.
        seconds: Of training; the best checkpoint so far is kept.
    """

    model: Path
    reference: Path
    out: Path
    samples: Path
    output: str
    batch: int
    labels: Path | None = None
    seed: int = 0
    seconds: float = 300
    steps: int = 1200


class Point(Record):
    """One checkpoint of the training.

    Attributes:
        agreement: With float on the samples held out of the training.
    """

    step: int
    loss: float
    agreement: float


class Trained(Record):
    """The trained variant is in the file.

    Attributes:
        improved: Whether it agrees better with float on held-out samples than what
            the training started from; if not, the file is the start.
        left_out: Operators that were not trained, and why, as sentences.
    """

    improved: bool
    curve: tuple[Point, ...]
    steps: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
