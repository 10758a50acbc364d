"""How figures and reasons are worded, in the terminal as on the page. Pure."""

from collections.abc import Iterator

from quarterdeck_controller.optimize.data.split import APART, TOGETHER
from quarterdeck_controller.optimize.evaluation import Evaluation, Interval, Side
from quarterdeck_controller.optimize.search.story import Said, Story, Tried

KNOWN = {
    "measured": "latency measured here",
    "reference": "latency from a reference device of the class",
    "estimated": "latency estimated: this machine only stands in for the class",
}
"""How the latency of a class is known."""

STEP = 1000.0
TENS = 10.0
LEAST_POINT = 0.05
"""What rounds to no point at all."""
ENDED, TIMED_OUT, NOT_FOUND = (
    "ended: ",
    "left out, the time is spent: ",
    "could not be found: ",
)
"""How the search begins a sentence about a rung that it did not climb."""
DONE_BEFORE = "tried"
"""The reason of a rung that was climbed and has no more to do."""
TAKEN, FRONT, FITS, OVER, FAILED = "taken", "front", "fits", "over", "failed"


def number(value: float, unit: str) -> str:
    """Return a score for people."""
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.4g}"


def with_unit(value: float, unit: str) -> str:
    """Return a score for people, with its unit."""
    return f"{number(value, unit)} {unit}".strip()


def interval(ends: Interval, unit: str) -> str:
    """Return the 95 % interval of a score."""
    low, high = (number(end, unit) for end in ends)
    return f"{low} to {high}"


def points(value: float) -> str:
    """Return points of a metric; no minus before what rounds to zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def signed(value: float) -> str:
    """Return a change in points, with its sign."""
    return f"{round(value, 1) + 0.0:+.1f}"


def percent(share: float) -> str:
    """Return a share of one as percent, without the sign."""
    return f"{100 * share:.1f}"


def size(count: int) -> str:
    """Return a number of bytes in the unit that shows three digits of it."""
    value, units = float(count), ["bytes", "kB", "MB", "GB"]
    while value >= STEP - 0.5 and len(units) > 1:
        value /= STEP
        units.pop(0)
    return f"{value:.0f} bytes" if units[0] == "bytes" else f"{value:.3g} {units[0]}"


def milliseconds(value: float) -> str:
    """Return a latency with three digits or more; the unit stands elsewhere."""
    decimals = 3 if value < 1 else 2 if value < TENS else 1
    return f"{value:.{decimals}f}"


def printable(text: str) -> str:
    """Return text on one line that a terminal shows and does not obey."""
    shown = (letter if letter.isprintable() else " " for letter in text)
    return " ".join("".join(shown).split())


def standing(tried: Tried) -> str:
    """Return in a word what became of a candidate."""
    if tried.taken:
        return TAKEN
    if tried.failure is not None or tried.latency is None:
        return FAILED
    if tried.misses:
        return OVER
    return FRONT if tried.on_front else FITS


def why_not(tried: Tried) -> str:
    """Return what a candidate missed, or why it failed; empty when neither."""
    return tried.failure or "; ".join(tried.misses)


def was_left_out(said: Said) -> bool:
    """Return whether this is about a rung that the search did not climb."""
    return said.sentence.startswith((ENDED, TIMED_OUT, NOT_FOUND))


def left_out(
    story: Story, *, climbed_too: bool = False
) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Return the rungs that were not climbed, joined by their reason, in order.

    A rung that was climbed and then had no more to do is among them only when
    ``climbed_too``, and only with a reason that tells more than that.
    """
    climbed = {said.rung for said in story.said if not was_left_out(said)}
    reasons: dict[str, list[str]] = {}
    for said in story.said:
        if not was_left_out(said) or said.sentence == ENDED + DONE_BEFORE:
            continue
        ended = said.sentence.startswith(ENDED)
        if ended and said.rung in climbed and not climbed_too:
            continue
        rungs = reasons.setdefault(_reason(said), [])
        if said.rung not in rungs:
            rungs.append(said.rung)
    return tuple((tuple(rungs), reason) for reason, rungs in reasons.items())


def outcome(evaluation: Evaluation) -> Iterator[str]:
    """Yield what the test samples and the emulated processors said."""
    if evaluation.variant is not None:
        yield _sides(evaluation, evaluation.reference, evaluation.variant)
    yield from _processors(evaluation)


def _reason(said: Said) -> str:
    return said.sentence.removeprefix(ENDED).removeprefix("left out, ")


def chose_too(evaluation: Evaluation) -> bool:
    """Return whether the samples that judge have also chosen the recipe."""
    return any(TOGETHER in note for note in evaluation.notes)


def warnings(evaluation: Evaluation) -> Iterator[str]:
    """Yield the notes that tell more than that samples were kept apart."""
    notes = dict.fromkeys(evaluation.notes)
    yield from (note for note in notes if APART not in note)


def _sides(evaluation: Evaluation, reference: Side, variant: Side) -> str:
    unit = evaluation.unit
    told = (
        f"on {_judges(evaluation)}: {with_unit(variant.score, unit)} "
        f"({interval(variant.ci95, unit)}) against float's "
        f"{with_unit(reference.score, unit)}"
    )
    if evaluation.drop_points is not None:
        told += f", lost {points(evaluation.drop_points)} points"
    if evaluation.drop_ci95 is not None:
        low, high = evaluation.drop_ci95
        told += f" ({points(low)} to {points(high)})"
    if evaluation.agreement is not None:
        told += f", agrees on {percent(evaluation.agreement)} %"
    return told


def _judges(evaluation: Evaluation) -> str:
    seen = "of the same" if chose_too(evaluation) else "unseen"
    return f"{evaluation.samples} {seen} samples"


def _processors(evaluation: Evaluation) -> Iterator[str]:
    measured = evaluation.golden_measured
    for one in measured[1:]:
        yield (
            f"on an emulated {one.processor}: {one.sqnr_db:.1f} dB to float, here "
            f"{measured[0].sqnr_db:.1f} dB"
        )
