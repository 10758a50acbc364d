"""What an optimization says in the terminal: a table per class, and the decision."""

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from quarterdeck_controller.optimize.evaluation import Evaluation, Side, Tried

COLUMNS = (
    "recipe",
    "size",
    "score",
    "95 %",
    "agrees",
    "ms",
    "latency",
    "MiB",
    "",
)
"""Size and latency are shares of the float model's; ms is the median."""
WORDS = frozenset({"recipe", ""})


def report(evaluations: Sequence[Evaluation]) -> RenderableType:
    """Return the tables of all classes, one under the other."""
    return Group(*(part for one in evaluations for part in _class(one)))


def _class(evaluation: Evaluation) -> Iterator[RenderableType]:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        side: Literal["left", "right"] = "left" if column in WORDS else "right"
        table.add_column(column, justify=side, no_wrap=True)
    table.add_row(*_float_row(evaluation))
    for tried in evaluation.tried:
        table.add_row(*_row(tried, evaluation))
    yield _title(evaluation)
    yield table
    yield from (Text(f"  {line}", "dim") for line in _over(evaluation))
    yield _decision(evaluation)
    yield Text()


def _title(evaluation: Evaluation) -> Text:
    meant = {
        "top1": "accuracy",
        "agreement": "agreement with float (no labels)",
        "closeness": "share within a tenth of float (no labels)",
    }
    text = Text(evaluation.device_class, "bold cyan")
    text.append(f"  {meant[evaluation.metric]}, n={evaluation.samples}", "dim")
    if evaluation.latency_known == "estimated":
        text.append(
            "; latency estimated: this machine only stands in for the class", "yellow"
        )
    return text


def _float_row(evaluation: Evaluation) -> list[str]:
    side = evaluation.reference
    return [
        "float",
        "1.00",
        *_score(side),
        "",
        _median(side),
        "1.00",
        _memory(side),
        "",
    ]


def _row(tried: Tried, evaluation: Evaluation) -> list[RenderableType]:
    if tried.variant is None:
        return [tried.recipe, *[""] * (len(COLUMNS) - 2), Text("failed", "red")]
    side = tried.variant
    taken = tried.recipe == evaluation.recipe and evaluation.decision == "accepted"
    verdict = Text("taken", "bold green") if taken else Text("fits", "green")
    if tried.misses:
        verdict = Text("over", "red")
    return [
        Text(tried.recipe, "bold" if taken else ""),
        f"{tried.size_ratio or 0:.2f}",
        *_score(side),
        f"{100 * (tried.agreement or 0):.1f}",
        _median(side),
        f"{tried.latency_ratio or 0:.2f}",
        _memory(side),
        verdict,
    ]


def _over(evaluation: Evaluation) -> Iterator[str]:
    for tried in evaluation.tried:
        why = tried.failure or "; ".join(tried.misses)
        if why:
            yield f"{tried.recipe}: {why}"


def _score(side: Side) -> tuple[str, str]:
    low, high = side.ci95
    return f"{100 * side.score:.1f}", f"{100 * low:.1f}-{100 * high:.1f}"


def _median(side: Side) -> str:
    return f"{side.latency.p50_ms:.3f}"


def _memory(side: Side) -> str:
    return f"{side.peak_memory_mb:.0f}"


def _decision(evaluation: Evaluation) -> Text:
    style = "bold green" if evaluation.decision == "accepted" else "bold red"
    text = Text(evaluation.decision, style)
    text.append(f"  {evaluation.reason}", "not bold default")
    for note in evaluation.notes:
        text.append(f"\n  {note}", "dim")
    return text
