"""Whether a variant gives the same answers on another processor. Pure.

Kernels of one instruction set saturate or round where another's do not, so one file can
be two models: 25.9 dB to float with VNNI are 12.8 dB on AVX2 without it. What was run
under emulation (``emulate``) is held against what was run here.
"""

from collections.abc import Sequence
from math import inf, log10

from quarterdeck_controller.optimize.data.stored import Array
from quarterdeck_controller.optimize.evaluation import GoldenMeasured
from quarterdeck_controller.optimize.golden import (
    ERROR_FLOOR,
    ERROR_SLACK,
    Compared,
    Scale,
    compare,
)

HERE = "here"

MOST_ERROR, MOST_DB = 1e6, 120.0
"""What is past these is told as these: JSON knows no infinity."""

MOST_LOST_DB = 2.0
"""How much further from float another processor's answers may be. Kernels that are
right for a recipe stay within 1 dB of each other; saturating ones lose 6 to 17 dB."""

EXACT_DB = 40.0
"""Answers closer to float than this, a hundredth of the scores, count as equal:
what is lost beyond is rounding (half precision is computed in half on a Cortex-A76 and
in float elsewhere: 55 for 70 dB), a fifth of the error that any device is granted."""

HEADROOM = 1.5
"""How many times the largest error of any processor another device of the class may
show: 3.5 dB for what is neither this machine nor the emulated one."""


def fidelity(
    processor: str, expected: Array, got: Array, scale: Scale
) -> GoldenMeasured:
    """Return how closely ``got``, run on ``processor``, reproduces ``expected``.

    Args:
        processor: ``HERE`` or the emulated processor.
        expected: The float model's scores, samples first.
        got: The variant's scores there.
        scale: How large the float model's scores are.
    """
    return measured(processor, compare(expected, got, scale))


def measured(processor: str, compared: Compared) -> GoldenMeasured:
    """Return what was ``compared`` on ``processor`` as it is recorded."""
    found = decibels(compared.error)
    return GoldenMeasured(
        processor=processor,
        agreement=compared.agreement,
        error=min(compared.error, MOST_ERROR),
        sqnr_db=max(-MOST_DB, min(found, MOST_DB)),
    )


def decibels(error: float) -> float:
    """Return the signal to noise ratio of a relative RMS error."""
    if error == 0:
        return inf
    return -20 * log10(error) if error < inf else -inf


def loses_db(here: GoldenMeasured, there: GoldenMeasured) -> float:
    """Return by how much more noise there is ``there``; never negative."""
    return max(0.0, min(here.sqnr_db, EXACT_DB) - min(there.sqnr_db, EXACT_DB))


def is_faithful(here: GoldenMeasured, there: GoldenMeasured) -> bool:
    """Return whether the other processor's answers are as good as those here."""
    return loses_db(here, there) <= MOST_LOST_DB


def tolerance(measured: Sequence[GoldenMeasured]) -> float:
    """Return the largest error a device of the class may show.

    It follows the largest error of any processor: closely where the class's own kernels
    were among them, with the wider slack of ``golden`` where this machine's alone were.
    It never falls below the floor there.

    Args:
        measured: What the variant reached on every kind of processor that was tried.

    Raises:
        ValueError: Nothing was measured.
    """
    if not measured:
        raise ValueError("no processor was measured")
    proved = any(one.processor != HERE for one in measured)
    headroom = HEADROOM if proved else ERROR_SLACK
    return max(ERROR_FLOOR, headroom * max(one.error for one in measured))
