"""What will be hard about a model, in sentences. Pure, and loads no runtime."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quarterdeck_controller.optimize.intake.kinds import (
    CONTROL,
    HEAVY,
    PRODUCTS,
    RANDOM,
    RECURRENT,
    TARGET_OPSET,
)
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.steps import Source

STATIC = frozenset({"static"})
SMALL_BYTES = 80_000
MIB = 1 << 20
RUNTIME_MB = 45
"""Resident memory of a process that has only imported the runtime."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model is, as far as it makes quantization hard.

    Attributes:
        types: Names of the float types of its weights.
        depthwise: Convolutions with as many groups as channels.
        huge: Constants with magnitudes such as attention masks have.
        free: Inputs with free dimensions besides the batch.
        unjudged: Outputs that are no tensors of numbers.
    """

    operators: Mapping[str, int]
    opset: int
    bytes: int
    types: frozenset[str]
    depthwise: int = 0
    huge: int = 0
    free: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


def notes(facts: Facts) -> Iterator[str]:
    """Yield what will be hard on any class."""
    kinds = frozenset(facts.operators)
    if not kinds & HEAVY:
        yield "it has no Conv, MatMul or Gemm: there is nothing worth quantizing"
    if kinds & RECURRENT:
        yield (
            f"{_told(kinds & RECURRENT)}: no kernel with calibrated ranges; weights "
            "alone can be made smaller"
        )
    if kinds & CONTROL:
        yield (
            f"{_told(kinds & CONTROL)} with subgraphs: what is inside is not calibrated"
            ", and samples are run one at a time"
        )
    if kinds & RANDOM:
        yield f"{_told(kinds & RANDOM)} may answer differently at every run"
    if facts.opset < TARGET_OPSET:
        yield f"opset {facts.opset} is converted to {TARGET_OPSET}"
    if facts.bytes < SMALL_BYTES:
        yield f"at {facts.bytes} bytes the graph outweighs the weights: little is saved"
    if facts.huge:
        yield (
            f"{_some(facts.huge, 'constant')} with magnitudes of masks (above 1e6): "
            "never quantized"
        )
    if facts.depthwise:
        yield (
            f"{_some(facts.depthwise, 'depthwise convolution')}: one scale for a whole "
            "tensor will not do, and small ones are often faster in float"
        )
    yield from _shapes_and_types(facts)


def _shapes_and_types(facts: Facts) -> Iterator[str]:
    if "float16" in facts.types or "bfloat16" in facts.types:
        yield "some weights are half precision already: they are widened first"
    if "float64" in facts.types:
        yield "some weights are float64: they are made float32 where outputs stay equal"
    if facts.free:
        told = ", ".join(facts.free)
        yield f"{told}: free dimensions, memory and latency depend on the samples"
    if facts.whole:
        told = ", ".join(facts.whole)
        yield f"{told}: no dimension for samples, which are run one at a time"
    if facts.unjudged:
        told = ", ".join(facts.unjudged)
        yield f"output {told} is no tensor of numbers: variants do not give it"


def hard_for(source: Source, profile: Profile) -> tuple[str, ...]:
    """Return what will be hard about the model on a class, as sentences."""
    return tuple(_on_class(source, profile))


def _on_class(source: Source, profile: Profile) -> Iterator[str]:
    kinds, support = frozenset(source.operators), profile.support
    heavy = kinds & HEAVY
    left = heavy - set(support.operators) if support.operators else frozenset()
    if left and STATIC & set(support.kinds):
        yield f"{_told(left)} does not run on integers there"
    if not support.per_channel and _is_said(source, "depthwise"):
        yield (
            "its kernels take one scale for a whole tensor, which depthwise "
            "convolutions lose too much by: training may be needed"
        )
    if not support.mixed and (kinds & (RECURRENT | CONTROL)):
        yield (
            f"{_told(kinds & (RECURRENT | CONTROL))} stays in float, but the class "
            "runs nothing in float beside integers"
        )
    if heavy == PRODUCTS & heavy and heavy and "dynamic" not in support.kinds:
        yield "transformers do best with dynamic MatMul, which the class does not have"
    needed = source.bytes / MIB + RUNTIME_MB
    if needed > profile.budget.memory_mb:
        yield (
            f"float weights and the runtime take {needed:.0f} MiB, the class allows "
            f"{profile.budget.memory_mb} MiB"
            + (": folding weights back to float will not do" if support.fold else "")
        )


def _is_said(source: Source, word: str) -> bool:
    return any(word in note for note in source.notes)


def _told(kinds: frozenset[str]) -> str:
    return ", ".join(sorted(kinds))


def _some(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count > 1 else "")
