"""What is asked of the steps that make a variant."""

from pathlib import Path

from quarterdeck_controller.optimize.recipe import Recipe, Repair
from quarterdeck_controller.optimize.steps.record import Record


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
    """

    name: str
    operator: str
    sqnr_db: float
    bytes: int


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
