"""Show a search while it goes on, on standard error and only to a person."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from quarterdeck_controller.cli.output import err
from quarterdeck_controller.optimize.optimizer import Progress

DONE = "done"


class _Board:
    """One line for every class, with what is being done for it."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._lines = dict.fromkeys(classes, ("", "waiting"))
        self._common = ("", "looking at the model")
        self._spinner = Spinner("dots")
        self._lock = Lock()

    def hear(self, step: Progress) -> None:
        """Take in what is being done."""
        with self._lock:
            line = (step.rung, step.sentence)
            if step.device_class:
                self._lines[step.device_class] = line
            else:
                self._common = line

    def __rich__(self) -> Table:
        """Draw it."""
        table = Table.grid(padding=(0, 1))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        started = any(rung for rung, _ in self._lines.values())
        if not started:
            table.add_row(self._spinner, "", *_words(*self._common))
        for name, (rung, sentence) in self._lines.items() if started else ():
            mark = Text("·") if rung == DONE else self._spinner
            table.add_row(mark, Text(name, "cyan"), *_words(rung, sentence))
        return table


@contextmanager
def watched(
    classes: Sequence[str], *, silent: bool
) -> Iterator[Callable[[Progress], None]]:
    """Yield what takes in the progress of a search for ``classes``."""
    if silent or not err.is_terminal:
        yield lambda _: None
        return
    board = _Board(classes)
    with Live(board, console=err, transient=True, refresh_per_second=8):
        yield board.hear


def _words(rung: str, sentence: str) -> tuple[Text, Text]:
    return Text(rung, "bold"), Text(sentence)
