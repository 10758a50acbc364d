"""Show a search while it goes on, on standard error and only to a person."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import get_args

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from quarterdeck_controller.cli.output import err
from quarterdeck_controller.optimize.optimizer import Progress
from quarterdeck_controller.optimize.report.wording import printable
from quarterdeck_controller.optimize.search.story import Rung
from quarterdeck_shared.clock import Clock, SystemClock

DONE = "done"
BEST = "best"
"""As a rung: the sentence is what the class would take if the search ended now."""
ROOM_FOR_BEST = 100
ROOM_FOR_RUNG = 60
"""Columns a terminal has at least where this is shown too."""
LONGEST_RUNG = max(map(len, get_args(Rung)))
MINUTE = 60


@dataclass(slots=True)
class _Line:
    """What is known of a class.

    Attributes:
        ended_s: When it was done, since the start; None while it goes on.
    """

    rung: str = ""
    sentence: str = "waiting"
    best: str = ""
    ended_s: float | None = None

    def hear(self, step: Progress) -> None:
        if step.rung == BEST:
            self.best = printable(step.sentence)
            return
        self.rung, self.sentence = step.rung, printable(step.sentence)
        if step.rung == DONE:
            self.ended_s, self.best = step.seconds, ""


class Board:
    """One line for every class: since when, what is done for it, and the best so far.

    Safe to tell from several threads while another draws it.
    """

    def __init__(self, classes: Sequence[str], clock: Clock) -> None:
        self._common = _Line(sentence="looking at the model")
        self._lines = {name: _Line() for name in classes}
        self._spinner = Spinner("dots", style="cyan")
        self._clock = clock
        self._began = clock.monotonic()
        self._lock = Lock()

    def hear(self, step: Progress) -> None:
        """Take in what is being done."""
        with self._lock:
            self._lines.get(step.device_class, self._common).hear(step)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Draw it within the width there is."""
        width = options.max_width
        table = Table.grid(padding=(0, 1), expand=True)
        for _ in range(3):
            table.add_column(no_wrap=True)
        if width >= ROOM_FOR_RUNG:
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        with self._lock:
            for name, line in self._shown():
                table.add_row(*self._cells(name, line, width))
        yield table

    def _shown(self) -> Iterator[tuple[str, _Line]]:
        if any(line.rung for line in self._lines.values()):
            yield from self._lines.items()
        else:
            yield "", self._common

    def _cells(self, name: str, line: _Line, width: int) -> Iterator[Text | Spinner]:
        ended = line.ended_s
        passed = self._clock.monotonic() - self._began if ended is None else ended
        yield self._spinner if ended is None else _mark(line.sentence)
        yield Text(name, "bold")
        yield Text(_minutes(passed), "dim")
        if width >= ROOM_FOR_RUNG:
            rung = "" if ended is not None else line.rung
            yield Text(f"{rung:<{LONGEST_RUNG}}", "cyan")
        best = f"best {line.best}" if line.best and width >= ROOM_FOR_BEST else ""
        text = Text(f"{best}; " if best else "", "green")
        yield text.append(line.sentence, "default")


@contextmanager
def watched(
    classes: Sequence[str], *, silent: bool
) -> Iterator[Callable[[Progress], None]]:
    """Yield what takes in the progress of a search for ``classes``."""
    if silent or not err.is_terminal:
        yield lambda _: None
        return
    board = Board(classes, SystemClock())
    with Live(board, console=err, transient=True, refresh_per_second=8):
        yield board.hear


def _mark(sentence: str) -> Text:
    accepted = sentence.startswith("accepted")
    return Text("✓", "bold green") if accepted else Text("✗", "bold red")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // MINUTE}:{int(seconds) % MINUTE:02d}"
