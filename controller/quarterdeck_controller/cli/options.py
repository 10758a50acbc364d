"""The options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="QUARTERDECK_HOME",
        help="The fleet home.",
        show_default=True,
    ),
]
DEFAULT_HOME = Path("fleet-home")

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON value instead of a table.")
]
