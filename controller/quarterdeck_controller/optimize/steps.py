"""What is asked of a child process and what it answers, one pair per step.

Everything that touches the model runs in a child (``sandbox.py``): a model can crash,
hang or swell the runtime. The two sides share this module and files in a folder.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from quarterdeck_controller.optimize.recipe import Recipe

StepName = Literal["inspect", "prepare", "build", "measure"]

SCORES = "scores.npy"
GOLDEN_SCORES = "golden.npy"


class Record(BaseModel):
    """A request or an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(Record):
    """An input or output; None is a dimension that is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class InspectRequest(Record):
    """Look at the file and refuse what cannot be optimized, or run."""

    model: Path
    quantized: bool = False


class Source(Record):
    """What the model is.

    Attributes:
        score_output: The output that is judged: the first of floats.
        operators: How often each operator occurs.
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
    notes: tuple[str, ...]


class PrepareRequest(Record):
    """Make the graph ready for quantization, and check that it still says the same.

    Attributes:
        samples: Folder with one ``.npy`` per input (``data.store``).
    """

    model: Path
    out: Path
    samples: Path
    inputs: tuple[str, ...]


class Prepared(Record):
    """The prepared model.

    Attributes:
        batch: How many samples may be run at once: 1 when a sample's scores depend
            on the others, or when the graph does not take more.
    """

    batch: int
    notes: tuple[str, ...]


class BuildRequest(Record):
    """Make a variant by a recipe.

    Attributes:
        output: The output that is judged; the variant gives it first, where devices
            look for it.
    """

    model: Path
    out: Path
    recipe: Recipe
    calibration: Path
    inputs: tuple[str, ...]
    output: str
    batch: int


class Built(Record):
    """The variant: how many operators run on the small type, and which do not."""

    bytes: int
    quantized: int
    notes: tuple[str, ...]


class MeasureRequest(Record):
    """Run a model on the evaluation samples.

    Attributes:
        reference: The float model, measured in turns with this one; None when this
            is the float model itself.
        golden: Samples to replay one at a time, as the device does.
        batch: How many samples to run at once for the scores.
        threads: Intra-op threads.
    """

    model: Path
    out: Path
    samples: Path
    inputs: tuple[str, ...]
    output: str
    reference: Path | None
    golden: tuple[int, ...]
    batch: int
    threads: int


class Times(Record):
    """Latencies of one inference at batch 1, milliseconds, sorted percentiles."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


class Measured(Record):
    """What was measured; the scores are beside it, in ``SCORES``."""

    peak_memory_mb: float
    times: Times
    reference_times: Times | None
