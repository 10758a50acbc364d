"""The benchmark's table: every model, beside its peers, and the targets. Pure."""

from collections.abc import Iterable, Sequence

from tests.bench.quantization.row import Row
from tests.bench.quantization.targets import Verdict

HEADER = (
    "by",
    "score %",
    "drop",
    "agree %",
    "size",
    "latency",
    "seconds",
    "cpu s",
    "what was done",
)
LEFT = (0, 8)
MOST_TEXT = 110


def render(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    """Return the table; size and latency are shares of float's."""
    cells = [_cells(row) for row in rows]
    widths = [
        max(map(len, column))
        for column in zip(HEADER, *(c for c in cells if c), strict=True)
    ]
    lines: list[str] = []
    task = ""
    for row, shown in zip(rows, cells, strict=True):
        if row.task != task:
            task = row.task
            lines += ["", f"{task} (n={row.samples})", _line(HEADER, widths)]
        lines.append(_line(shown, widths))
    return "\n".join([*lines, "", *_told(verdicts)]).lstrip("\n")


def _cells(row: Row) -> tuple[str, ...]:
    why = "" if row.decision == "accepted" else row.reason
    note = " ".join(
        part for part in (row.recipe, row.decision, row.failure, why) if part
    )
    if row.errors is not None:
        note = f"CER {100 * row.errors:.2f} % {note}"
    if not row.samples:
        return (row.by, *["-"] * 7, note[:MOST_TEXT])
    return (
        row.by,
        f"{100 * row.score:.1f}",
        f"{row.drop:+.1f}",
        f"{100 * row.agreement:.1f}",
        f"{row.size_ratio:.3f}",
        f"{row.latency_ratio:.2f}",
        f"{row.seconds:.0f}",
        f"{row.cpu_seconds:.0f}",
        note[:MOST_TEXT].strip(),
    )


def _told(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    marks = {True: "met", False: "MISSED", None: "not measured"}
    texts = [(v.target, v.measured, marks[v.met]) for v in verdicts]
    widths = [max(len(text[at]) for text in texts) for at in range(3)]
    return [
        "targets",
        *(
            "  "
            + "  ".join(
                one.ljust(width) for one, width in zip(text, widths, strict=True)
            ).rstrip()
            for text in texts
        ),
    ]


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    texts = (
        text.ljust(width) if at in LEFT else text.rjust(width)
        for at, (text, width) in enumerate(zip(cells, widths, strict=True))
    )
    return ("  " + "  ".join(texts)).rstrip()
