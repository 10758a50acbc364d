"""``quarterdeck demo``: the whole chain on this machine."""

import os
import shutil
import threading
from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.cli.output import EXIT_INTERRUPTED, err, out, print_json
from quarterdeck_controller.demo.play import Summary, play
from quarterdeck_controller.demo.screen import Screen
from quarterdeck_controller.demo.stage import Stage
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MARKER = ".quarterdeck-demo"


def command(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where the demo works; made anew each time.")
    ] = Path(".demo"),
    cache: Annotated[
        Path | None, typer.Option(help="Where the data set is kept between runs.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the fleet running until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object.")
    ] = False,
) -> None:
    """See it all work on this machine: real processes, real model, real data."""
    screen = Screen(out, silent=as_json)
    folder = folder.absolute()
    _make_anew(folder)
    try:
        summary = play(
            folder,
            cache or _default_cache(),
            SystemClock(),
            screen,
            linger=lambda stage: _linger(stage) if keep else None,
        )
    except KeyboardInterrupt:
        err.print("interrupted; everything that was started has been stopped")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print_json(summary.as_json())
    else:
        _sum_up(screen, summary)
    if not summary.ok:
        raise typer.Exit(1)


def _make_anew(folder: Path) -> None:
    """Empty ``folder`` if an earlier demo made it; never anything else."""
    if folder.is_dir() and (folder / MARKER).is_file():
        shutil.rmtree(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RejectedError(
            Code.CONFLICT, f"{folder} exists and no demo made it; name another: --dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "quarterdeck"


def _linger(stage: Stage) -> None:
    home = stage.home.path
    err.print(
        "\nThe fleet goes on running; in another terminal, for instance:\n"
        f"  quarterdeck device list --home {home}\n"
        f"  quarterdeck monitor --by device --home {home}\n"
        f"  quarterdeck rollout list --home {home}\n"
        f"  quarterdeck-agent status --config {stage.bundle('board-1')}/agent.toml\n"
        "Ctrl-C ends it.",
        markup=False,
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        err.print("stopping")


def _sum_up(screen: Screen, summary: Summary) -> None:
    rows = [
        (
            "[green]✓[/]" if act.seen.ok else "[bold red]✗[/]",
            act.title,
            act.seen.sentence,
            f"{act.seconds:.1f}",
        )
        for act in summary.played
    ]
    folder = summary.folder
    verdict = (
        "[bold green]Everything happened as it should.[/]"
        if summary.ok
        else "[bold red]Not everything happened; see the logs.[/]"
    )
    lines = [
        "",
        f"{verdict} {summary.seconds:.0f} s, on this machine alone;",
        "kinds of device that it is not were simulated, and latency there is its own.",
        f"pictures  {folder / 'pictures'}",
        f"logs      {folder / 'logs'}",
        f"home      {folder / 'home'}",
    ]
    screen.summary(rows, lines)
