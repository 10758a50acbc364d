"""How commands speak: tables for people, one JSON value for scripts."""

import json
import sys
from collections.abc import Iterator, Sequence
from types import MappingProxyType

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from quarterdeck_shared.plain import plain

EXIT_ERROR = 1
EXIT_REFUSED = EXIT_NOT_FOUND = 3
EXIT_NOT_ALLOWED = 4
EXIT_INTERRUPTED = 130
MAX_WIDTH = 1000


class Terminal(Console):
    """A console that nothing printed on it can steer: much of it is others' words."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Give the pieces of ``renderable``, with their text made plain."""
        for text, style, control in super().render(renderable, options):
            shown = text if control else plain(text, keep="\n")
            yield Segment(shown, style, control)


out = Terminal(highlight=False, soft_wrap=True)
err = Terminal(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print ``value`` as one line of JSON on standard output."""
    out.file.write(json.dumps(value, default=str) + "\n")


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> None:
    """Print aligned columns; those named in ``right`` are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=title)
    table.title_justify = "left"
    for column in columns:
        is_number = column in right
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text("" if it is None else plain(str(it))) for it in row))
    # A narrow terminal wraps a line; a name that was cut off could not be copied.
    options = out.options.update(max_width=MAX_WIDTH)
    width = max(out.width, Measurement.get(out, options, table).maximum)
    Terminal(file=out.file, width=width).print(table)


_EXITS = MappingProxyType(
    {
        Code.NOT_FOUND: EXIT_NOT_FOUND,
        Code.UNAUTHENTICATED: EXIT_NOT_ALLOWED,
        Code.NOT_PERMITTED: EXIT_NOT_ALLOWED,
    }
)


def exit_of(error: QuarterdeckError) -> int:
    """Return the exit code of a command that ended with ``error``."""
    return _EXITS.get(error.code, EXIT_ERROR)


def report_error(error: QuarterdeckError) -> None:
    """Print what happened, why, and what to do, on standard error."""
    err.print(f"[bold red]error[/] {error.code}: ", end="")
    err.print(error.detail, markup=False)
    err.print(f"  {error.code.sentence} {error.code.remedy}", markup=False, style="dim")


def confirm(question: str) -> None:
    """Ask a person; return when they agree.

    Raises:
        RejectedError: ``NOT_ALLOWED`` when nobody can be asked.
        typer.Abort: They did not agree.
    """
    if not sys.stdin.isatty():
        raise RejectedError(
            Code.NOT_ALLOWED, "nobody can be asked here: read it, then add --yes"
        )
    typer.confirm(question, abort=True)
