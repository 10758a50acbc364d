"""What can be done to a float model: recipes as data."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["dynamic", "static", "fp16"]
Scheme = Literal["u8s8", "u8u8", "s8s8"]
Calibration = Literal["minmax", "percentile", "mse"]
Scope = Literal["heavy", "elementwise"]

KINDS: tuple[Kind, ...] = ("static", "dynamic", "fp16")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a variant; two equal recipes give the same bytes.

    Attributes:
        kind: ``static`` quantizes weights and activations with calibrated ranges,
            ``dynamic`` weights only, with activation ranges found at run time, and
            ``fp16`` halves every float.
        scheme: Types of activations and weights (``u8s8`` is unsigned activations
            and signed weights); only the weights' type matters to ``dynamic``.
        per_channel: A scale for each output channel instead of one for the tensor.
        reduce_range: Seven bits of weights, for kernels that saturate at eight.
        calibration: How a range is taken from a histogram: all of it, all but the
            far ends, or the range with the least squared error.
        scope: ``heavy`` quantizes Conv, MatMul and Gemm and what the runtime fuses
            into them; ``elementwise`` also Add, Mul and what joins heavy operators.
    """

    kind: Kind
    scheme: Scheme = "u8s8"
    per_channel: bool = True
    reduce_range: bool = False
    calibration: Calibration = "mse"
    scope: Scope = "heavy"

    @property
    def name(self) -> str:
        """The recipe in one word, such as ``static-u8s8-mse``."""
        if self.kind == "fp16":
            return "fp16"
        if self.kind == "dynamic":
            return f"dynamic-{self.scheme[2:]}{self._granularity()}"
        parts = [self.kind, self.scheme + self._granularity(), self.calibration]
        return "-".join(parts if self.scope == "heavy" else [*parts, self.scope])

    @property
    def depends_on_batch(self) -> bool:
        """Whether a sample's scores depend on the others in its batch."""
        return self.kind == "dynamic"

    def _granularity(self) -> str:
        coarse = "" if self.per_channel else "-tensor"
        return coarse + ("-7bit" if self.reduce_range else "")
