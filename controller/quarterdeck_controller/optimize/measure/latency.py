"""Where the latency of a variant on its class is known from.

A port with two sources: devices of the class that measured it (``Brought``) and this
machine (``Here``), which is one of the class or only stands in for it. The first that
knows answers, the devices before this machine, so a search never has to ask which kind
it has. Asking a reference device through its agent while a search runs is a third
source to come; its messages are reserved in ``quarterdeck_shared.latency``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from quarterdeck_controller.optimize.evaluation import LatencyKnown
from quarterdeck_controller.optimize.measure.known import Key, Known
from quarterdeck_controller.optimize.measure.machine import latency_known
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.steps import Measured, MeasureRequest, Times
from quarterdeck_shared.latency import LatencyReport


@dataclass(frozen=True, slots=True)
class Question:
    """What a variant costs on a class.

    Attributes:
        variant: Its file, and ``variant_sha256`` of it.
        reference: The float model to take turns with.
        float_sha256: Of the original float model, as ``inspect`` gives it.
        samples: Stored samples; the first is run.
    """

    variant: Path
    variant_sha256: str
    reference: Path
    float_sha256: str
    samples: Path
    profile: Profile

    @property
    def key(self) -> Key:
        """Return under what a device's answer is kept."""
        return Key(
            variant_sha256=self.variant_sha256,
            float_sha256=self.float_sha256,
            device_class=self.profile.name,
            session=self.profile.session,
        )


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, and what it is worth."""

    measured: Measured
    known: LatencyKnown
    notes: tuple[str, ...] = ()


class LatencySource(Protocol):
    """Something that may know what a variant costs."""

    def measure(self, question: Question) -> Told | str:
        """Return the answer, or why there is none: empty when none was expected.

        Raises:
            RejectedError: The model cannot be opened or run.
        """
        ...


@dataclass(frozen=True, slots=True)
class Brought:
    """What devices of the class measured, and an operator brought here."""

    known: Known

    def measure(self, question: Question) -> Told | str:
        """Return what was kept for the question."""
        found = self.known.lookup(question.key)
        if found.report is None:
            return found.note
        asked = question.profile.known.reference
        if asked and found.report.device != asked:
            return (
                f"a latency measured on {found.report.device or 'an unnamed device'} "
                f"is passed over: {question.profile.name} names {asked} as reference"
            )
        return Told(_measured(found.report), "reference")


@dataclass(frozen=True, slots=True)
class Here:
    """This machine.

    Attributes:
        step: Carries the step ``measure`` out in a child, while nothing else runs.
        isa: What this machine has.
    """

    step: Callable[[MeasureRequest], Measured]
    isa: Sequence[str]

    def measure(self, question: Question) -> Told | str:
        """Return what the step measures; it always answers."""
        request = MeasureRequest(
            model=question.variant,
            reference=question.reference,
            samples=question.samples,
            session=question.profile.session,
        )
        known = latency_known(question.profile, self.isa)
        return Told(self.step(request), known)


@dataclass(frozen=True, slots=True)
class First:
    """Several sources, asked in order until one knows."""

    sources: tuple[LatencySource, ...] = field(default=())

    def measure(self, question: Question) -> Told | str:
        """Return the first answer, with the notes of those that had none."""
        notes: list[str] = []
        for source in self.sources:
            told = source.measure(question)
            if isinstance(told, Told):
                return Told(told.measured, told.known, (*notes, *told.notes))
            notes += [told] if told else []
        return "; ".join(notes)


def _measured(report: LatencyReport) -> Measured:
    return Measured(
        peak_memory_mb=report.peak_memory_mb,
        load_ms=report.load_ms,
        times=Times(**report.variant.model_dump()),
        reference_times=Times(**report.reference.model_dump()),
        ratio=report.ratio,
    )
