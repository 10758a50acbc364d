"""What the demo shows a person: one live line, and what came of each act."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table


class Screen:
    """Writes to ``console``; a line that changes is live only on a terminal."""

    def __init__(self, console: Console, *, silent: bool) -> None:
        self._console = console
        self._silent = silent
        self._live = console.status("") if console.is_terminal and not silent else None
        self._last = ""

    def act(self, letter: str, title: str) -> None:
        """Begin an act."""
        self._say(f"\n[bold]{letter}  {title}[/]")
        if self._live is not None:
            self._live.start()

    def status(self, sentence: str) -> None:
        """Show how it stands now."""
        if self._live is not None:
            self._live.update(f"[dim]{sentence}[/]")
        elif sentence != self._last:
            self._say(f"   [dim]{sentence}[/]")
        self._last = sentence

    def show(self, what: RenderableType) -> None:
        """Show something that stays."""
        self._say(what)

    def result(self, *, ok: bool, sentence: str, seconds: float) -> None:
        """End an act."""
        if self._live is not None:
            self._live.stop()
        mark = "[green]✓[/]" if ok else "[bold red]✗[/]"
        self._say(f"   {mark} {sentence} [dim]({seconds:.1f} s)[/]")

    def summary(self, rows: Sequence[Sequence[str]], lines: Sequence[str]) -> None:
        """Show what was seen in the whole run."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "act", "seen", "s"):
            table.add_column(column, justify="right" if column == "s" else "left")
        for row in rows:
            table.add_row(*row)
        self._say("")
        self._say(table)
        for line in lines:
            self._say(line)

    def _say(self, what: RenderableType) -> None:
        if not self._silent:
            self._console.print(what)
