"""What can be done to a float model: recipes as data."""

from dataclasses import dataclass
from typing import Literal

Treatment = Literal["float", "half", "weights", "weights4", "dynamic", "wide", "static"]
"""What is done to one operator:

``float``     nothing;
``half``      its weights are stored as float16, it computes in float32;
``weights``   its weights are stored as int8, it computes in float32;
``weights4``  its weights are stored in blocks of 4 bits, it computes in float32;
``dynamic``   int8 weights, activations quantized at run time by what they then are;
``wide``      int8 weights, activations of 16 bits with calibrated ranges;
``static``    int8 weights, activations of 8 bits with calibrated ranges.
"""

Kind = Literal["static", "dynamic", "weights", "weights4", "fp16"]
Scheme = Literal["u8s8", "u8u8", "s8s8"]
Calibration = Literal["minmax", "percentile", "mse"]
Scope = Literal["heavy", "elementwise"]
Format = Literal["qdq", "qoperator"]
Repair = Literal["equalize", "smooth", "bias", "round"]

KINDS: tuple[Kind, ...] = ("static", "dynamic", "weights", "weights4", "fp16")
GRAPH_REPAIRS: tuple[Repair, ...] = ("equalize", "smooth")
"""Made on the float graph before it is calibrated; the function stays the same."""
TUNING_REPAIRS: tuple[Repair, ...] = ("bias", "round")
"""Made on the quantized graph: other integers, the same nodes."""

Overrides = tuple[tuple[str, Treatment], ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a variant; two equal recipes give the same bytes.

    Attributes:
        kind: What is done to every operator of the scope that ``overrides`` does not
            name. ``fp16`` is no treatment of single operators: the whole graph
            computes in half precision.
        scheme: Types of activations and weights (``u8s8`` is unsigned activations
            and signed weights); only the weights' type matters to ``dynamic``.
        symmetric: Activations have their zero in the middle, as accelerators ask.
        per_channel: A scale for each output channel instead of one for the tensor.
        reduce_range: Seven bits of weights, for kernels that saturate at eight.
        calibration: How a range is taken from a histogram: all of it, all but the
            far ends, or the range with the least squared error.
        scope: ``heavy`` quantizes what multiplies by weights and what the runtime
            fuses into it; ``elementwise`` also Add, Mul, pooling and what else joins
            heavy operators, so that activations stay int8 between them.
        format: ``qdq`` marks what is quantized and lets the runtime fuse it, which
            every provider understands; ``qoperator`` writes the CPU's fused
            operators themselves.
        rest: What is done to the weights of operators that stay in float, so that
            they do not weigh four bytes each.
        overrides: Operators, by their name in the prepared graph, with a treatment of
            their own, sorted by name.
        repairs: What is mended before and after, in order.
        trained: Whether the integers were trained afterwards (quantization-aware
            training).
    """

    kind: Kind
    scheme: Scheme = "u8s8"
    symmetric: bool = False
    per_channel: bool = True
    reduce_range: bool = False
    calibration: Calibration = "mse"
    scope: Scope = "heavy"
    format: Format = "qdq"
    rest: Treatment = "weights"
    overrides: Overrides = ()
    repairs: tuple[Repair, ...] = ()
    trained: bool = False

    @property
    def name(self) -> str:
        """The recipe in a word of at most 64 letters, such as ``static-u8s8-mse``.

        It does not tell which operators have a treatment of their own, only how many.
        """
        parts = [*self._base(), *self.repairs]
        for treatment in sorted({treatment for _, treatment in self.overrides}):
            count = sum(found == treatment for _, found in self.overrides)
            parts.append(f"{count}{treatment}")
        if self.trained:
            parts.append("qat")
        return "-".join(parts)[:64]

    @property
    def depends_on_batch(self) -> bool:
        """Whether a sample's scores depend on the others in its batch."""
        return "dynamic" in self.treatments

    @property
    def treatments(self) -> frozenset[str]:
        """Every treatment that occurs, and ``fp16``."""
        return frozenset({self.kind, *(found for _, found in self.overrides)})

    def _base(self) -> list[str]:
        if self.kind in ("fp16", "weights4"):
            return [self.kind]
        if self.kind in ("dynamic", "weights"):
            return [f"{self.kind}-{self.scheme[2:]}{self._granularity()}"]
        scheme = self.scheme + ("-symmetric" if self.symmetric else "")
        parts = [self.kind, scheme + self._granularity(), self.calibration]
        parts += ["elementwise"] if self.scope == "elementwise" else []
        return [*parts, "qoperator"] if self.format == "qoperator" else parts

    def _granularity(self) -> str:
        coarse = "" if self.per_channel else "-tensor"
        return coarse + ("-7bit" if self.reduce_range else "")
