"""What an optimization says in the terminal: a table per class, and the decision."""

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from quarterdeck_controller.optimize.evaluation import Evaluation, Side
from quarterdeck_controller.optimize.search.story import Story, Tried

COLUMNS = (
    "recipe",
    "size",
    "score",
    "lost",
    "agrees",
    "ms",
    "latency",
    "MiB",
    "integer",
    "",
)
"""Size and latency are shares of the float model's; ms is the median; integer counts
the kernels that multiply integers."""
WORDS = frozenset({"recipe", ""})
KNOWN = {
    "measured": "",
    "reference": "; latency from a reference device",
    "estimated": "; latency estimated: this machine only stands in for the class",
}

Result = tuple[Evaluation, Story]


def report(results: Sequence[Result]) -> RenderableType:
    """Return the tables of all classes, one under the other."""
    return Group(*(part for one in results for part in _class(*one)))


def number(value: float, unit: str) -> str:
    """Return a score for people."""
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.4g}"


def _class(evaluation: Evaluation, story: Story) -> Iterator[RenderableType]:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        side: Literal["left", "right"] = "left" if column in WORDS else "right"
        table.add_column(column, justify=side, no_wrap=True)
    table.add_row(*_float_row(evaluation, story))
    for tried in story.tried:
        table.add_row(*_row(tried, evaluation))
    yield _title(evaluation)
    yield table
    yield from (Text(f"  {line}", "dim") for line in _over(story))
    yield from _verdict(evaluation)
    yield Text()


def _title(evaluation: Evaluation) -> Text:
    text = Text(evaluation.device_class, "bold cyan")
    text.append(
        f"  {evaluation.metric} on the {evaluation.selection_samples} samples that "
        "choose",
        "dim",
    )
    text.append(KNOWN[evaluation.latency_known], "yellow")
    return text


def _float_row(evaluation: Evaluation, story: Story) -> list[str]:
    side = evaluation.reference
    return [
        "float",
        "1.00",
        number(story.reference_score, story.unit),
        "",
        "",
        f"{side.latency.p50_ms:.3f}",
        "1.00",
        f"{side.peak_memory_mb:.0f}",
        "",
        "",
    ]


def _row(tried: Tried, evaluation: Evaluation) -> list[RenderableType]:
    if tried.latency is None or tried.kernels is None:
        blank = [""] * (len(COLUMNS) - 2)
        return [tried.recipe, *blank, Text("failed", "red")]
    return [
        Text(tried.recipe, "bold" if tried.taken else ""),
        f"{tried.size_ratio or 0:.2f}",
        number(tried.score or 0, evaluation.unit),
        f"{tried.drop_points or 0:.1f}",
        f"{100 * (tried.agreement or 0):.1f}",
        f"{tried.latency.p50_ms:.3f}",
        f"{tried.latency_ratio or 0:.2f}",
        f"{tried.peak_memory_mb or 0:.0f}",
        f"{tried.kernels.integer}",
        _word(tried),
    ]


def _word(tried: Tried) -> Text:
    if tried.taken:
        return Text("taken", "bold green")
    if tried.misses:
        return Text("over", "red")
    return Text("on the front" if tried.on_front else "fits", "green")


def _over(story: Story) -> Iterator[str]:
    for tried in story.tried:
        why = tried.failure or "; ".join(tried.misses)
        if why:
            yield f"{tried.recipe}: {why}"


def _verdict(evaluation: Evaluation) -> Iterator[Text]:
    variant = evaluation.variant
    if variant is not None:
        yield _sides(evaluation, evaluation.reference, variant)
    for one in evaluation.golden_measured[1:]:
        yield Text(
            f"  on an emulated {one.processor}: {one.sqnr_db:.1f} dB to float, here "
            f"{evaluation.golden_measured[0].sqnr_db:.1f} dB",
            "dim",
        )
    style = "bold green" if evaluation.decision == "accepted" else "bold red"
    text = Text(evaluation.decision, style)
    text.append(f"  {evaluation.reason}", "not bold default")
    yield text


def _sides(evaluation: Evaluation, reference: Side, variant: Side) -> Text:
    low, high = variant.ci95
    unit = evaluation.unit
    lost = evaluation.drop_ci95 or (0.0, 0.0)
    return Text(
        f"  on {evaluation.samples} unseen samples: "
        f"{number(variant.score, unit)} ({number(low, unit)}-{number(high, unit)}) "
        f"against float's {number(reference.score, unit)}, "
        f"lost {evaluation.drop_points or 0:.1f} points "
        f"({lost[0]:.1f} to {lost[1]:.1f}), agrees on "
        f"{100 * (evaluation.agreement or 0):.1f} %",
        "dim",
    )
