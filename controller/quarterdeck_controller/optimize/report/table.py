"""What an optimization says in the terminal: a table per class, and the decision.

It fits the width it is given, 80 columns where there is no terminal: columns that tell
least go first, then long names of recipes are broken at their hyphens. Nothing is cut.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from quarterdeck_controller.optimize.evaluation import Evaluation, Kernels, Latency
from quarterdeck_controller.optimize.report import wording
from quarterdeck_controller.optimize.search.story import Story, Tried

GAP = 2
NARROWEST_NAME = 18
"""Below this the names of recipes are not broken for the sake of another column."""
MOST_TOLD = 3
"""Candidates of which it is told why they are out: the rest is on the page."""
MOST_NOTES = 4
STYLES = {
    wording.TAKEN: "bold green",
    wording.FRONT: "green",
    wording.FITS: "green",
    wording.OVER: "red",
    wording.FAILED: "red",
}
LEGEND = (
    "size and time are shares of float's; lost: points below float; agrees: % of "
    "samples; front: no other is as good in all"
)

Result = tuple[Evaluation, Story]


@dataclass(frozen=True, slots=True)
class _Row:
    """What a line tells: a candidate, or float itself."""

    evaluation: Evaluation
    story: Story
    tried: Tried | None

    @property
    def kernels(self) -> Kernels | None:
        return (
            self.evaluation.reference.kernels
            if self.tried is None
            else (self.tried.kernels)
        )


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of figures.

    Attributes:
        tells: How much it tells; columns that tell least are left out first.
        cell: What it shows of a candidate that was measured.
    """

    head: str
    tells: int
    cell: Callable[[_Row], str]


def report(results: Sequence[Result]) -> RenderableType:
    """Return the tables of all classes, one under the other."""
    return _Report(tuple(results))


@dataclass(frozen=True, slots=True)
class _Report:
    results: tuple[Result, ...]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        width = options.max_width
        for evaluation, story in self.results:
            yield from _lines(_title(evaluation), width, 2, console)
            yield _table(evaluation, story, width)
            for text in _told(evaluation, story):
                yield from _lines(text, width, 2, console)
            yield Text()
        yield from _lines(Text(LEGEND, "dim"), width, 0, console)


def _lines(text: Text, width: int, hang: int, console: Console) -> Iterator[Text]:
    """Yield ``text`` in lines of ``width``; those after the first hang in."""
    first, *others = text.wrap(console, width, no_wrap=False, overflow="fold")
    first.rstrip()
    yield first
    for line in others:
        line.rstrip()
    rest = Text(" ").join(others)
    room = max(width - hang, 1)
    for line in rest.wrap(console, room, no_wrap=False, overflow="fold")[: len(rest)]:
        line.rstrip()
        yield Text(" " * hang) + line


def _title(evaluation: Evaluation) -> Text:
    text = Text(evaluation.device_class, "bold cyan")
    metric = wording.printable(evaluation.metric)
    text.append(
        f"  {metric} in {evaluation.unit or 'points'} on the "
        f"{evaluation.selection_samples} samples that choose",
        "not bold dim default",
    )
    if evaluation.latency_known != "measured":
        told = wording.KNOWN[evaluation.latency_known]
        text.append(f"; {told}", "not bold yellow")
    return text


def _table(evaluation: Evaluation, story: Story, width: int) -> Table:
    rows = [_Row(evaluation, story, tried) for tried in (None, *story.tried)]
    words = [_word(row) for row in rows]
    room = width - max(len(word) for word in words) - GAP
    columns = _fitting(rows, room)
    used = sum(_width(column, rows) + GAP for column in columns)
    longest = max(len(_name(row)) for row in rows)
    name_width = max(min(longest, room - used), 1)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    table.add_column("recipe", width=name_width)
    for column in columns:
        wide = _width(column, rows)
        table.add_column(column.head, justify="right", no_wrap=True, width=wide)
    table.add_column("", no_wrap=True)
    for row, word in zip(rows, words, strict=True):
        name = "\n".join(_broken(_name(row), name_width))
        style = "bold" if row.tried and row.tried.taken else ""
        cells = [_cell(column, row) for column in columns]
        table.add_row(Text(name, style), *cells, Text(word, STYLES.get(word, "")))
    return table


def _fitting(rows: Sequence[_Row], room: int) -> list[_Column]:
    """Return the columns that leave room for the names of recipes."""
    names = [_name(row) for row in rows]
    needed = min(max(map(len, names)), max(NARROWEST_NAME, room // 3))
    columns = [c for c in COLUMNS if any(_cell(c, row) for row in rows)]
    while columns and sum(_width(c, rows) + GAP for c in columns) + needed > room:
        columns.remove(min(columns, key=lambda column: column.tells))
    return columns


def _width(column: _Column, rows: Sequence[_Row]) -> int:
    return max(len(column.head), *(len(_cell(column, row)) for row in rows))


def _cell(column: _Column, row: _Row) -> str:
    if row.tried is not None and row.tried.latency is None:
        return ""
    return column.cell(row)


def _name(row: _Row) -> str:
    return "float" if row.tried is None else row.tried.recipe


def _word(row: _Row) -> str:
    return "" if row.tried is None else wording.standing(row.tried)


def _broken(name: str, width: int) -> list[str]:
    """Return ``name`` in pieces of at most ``width``, cut after hyphens if possible."""
    pieces: list[str] = []
    while len(name) > width:
        at = name.rfind("-", 0, width) + 1 or width
        pieces.append(name[:at])
        name = name[at:]
    return [*pieces, name]


def _told(evaluation: Evaluation, story: Story) -> Iterator[Text]:
    for standing in (wording.FAILED, wording.OVER):
        found = [one for one in story.tried if wording.standing(one) == standing]
        found.sort(key=lambda one: one.drop_points or 0.0)  # stable: in order of trial
        for tried in found[:MOST_TOLD]:
            told = wording.printable(f"{tried.recipe}: {_briefly(tried)}")
            yield Text(f"{standing}  {told}", "dim")
        if len(found) > MOST_TOLD:
            yield Text(f"{standing}  {len(found) - MOST_TOLD} more", "dim")
    told = "; ".join(
        f"{', '.join(rungs)} ({reason})" for rungs, reason in wording.left_out(story)
    )
    if told:
        yield Text(f"left out  {wording.printable(told)}", "dim")
    for sentence in wording.outcome(evaluation):
        yield Text(wording.printable(sentence))
    warnings = list(wording.warnings(evaluation))
    for note in warnings[:MOST_NOTES]:
        yield Text(f"note  {wording.printable(note)}", "yellow")
    if len(warnings) > MOST_NOTES:
        yield Text(f"note  {len(warnings) - MOST_NOTES} more on the page", "yellow")
    style = "bold green" if evaluation.decision == "accepted" else "bold red"
    text = Text(evaluation.decision, style)
    text.append(f"  {wording.printable(evaluation.reason)}", "not bold default")
    yield text


def _briefly(tried: Tried) -> str:
    """Return why a candidate is out; of several misses the first."""
    if tried.failure is not None or not tried.misses:
        return tried.failure or ""
    more = len(tried.misses) - 1
    return f"{tried.misses[0]}{f'; and {more} more' if more else ''}"


def _size_ratio(row: _Row) -> str:
    return f"{(row.tried.size_ratio or 0) if row.tried else 1:.2f}"


def _bytes(row: _Row) -> str:
    bytes_ = row.tried.bytes if row.tried else row.story.reference_bytes
    return wording.size(bytes_ or 0)


def _score(row: _Row) -> str:
    score = row.tried.score if row.tried else row.story.reference_score
    return "" if score is None else wording.number(score, row.story.unit)


def _lost(row: _Row) -> str:
    if row.tried is None or row.tried.drop_points is None:
        return ""
    return wording.points(row.tried.drop_points)


def _agrees(row: _Row) -> str:
    if row.tried is None or row.tried.agreement is None:
        return ""
    return wording.percent(row.tried.agreement)


def _time_ratio(row: _Row) -> str:
    return f"{(row.tried.latency_ratio or 0) if row.tried else 1:.2f}"


def _p50(row: _Row) -> str:
    times = _times(row)
    return "" if times is None else wording.milliseconds(times.p50_ms)


def _p90(row: _Row) -> str:
    times = _times(row)
    return "" if times is None else wording.milliseconds(times.p90_ms)


def _times(row: _Row) -> Latency | None:
    return row.tried.latency if row.tried else row.evaluation.reference.latency


def _memory(row: _Row) -> str:
    side = row.tried or row.evaluation.reference
    return f"{side.peak_memory_mb or 0:.0f}"


def _integer(row: _Row) -> str:
    return "" if row.kernels is None else f"{row.kernels.integer}"


def _heavy_float(row: _Row) -> str:
    return "" if row.kernels is None else f"{row.kernels.heavy_float}"


def _conversions(row: _Row) -> str:
    return "" if row.kernels is None else f"{row.kernels.conversions}"


COLUMNS = (
    _Column("size", 12, _size_ratio),
    _Column("bytes", 3, _bytes),
    _Column("score", 9, _score),
    _Column("lost", 10, _lost),
    _Column("agrees", 8, _agrees),
    _Column("time", 11, _time_ratio),
    _Column("p50 ms", 6, _p50),
    _Column("p90 ms", 4, _p90),
    _Column("MiB", 7, _memory),
    _Column("integer", 5, _integer),
    _Column("float", 2, _heavy_float),
    _Column("q/dq", 1, _conversions),
)
