"""What is asked of the steps that take a model and samples in."""

from pathlib import Path

from quarterdeck_controller.optimize.steps.record import Record, Tensor


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
