"""The options that many commands share, or that stand before all of them."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
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


CREDENTIALS = ("--token-file", "--identity")
"""Options of the whole program that name a credential; each takes a value."""


@dataclass(frozen=True, slots=True)
class Given:
    """The credential that was given on the command line.

    Attributes:
        token: The token itself, where a command has asked for it.
    """

    token_file: Path | None = None
    identity: Path | None = None
    token: str | None = None


GIVEN: ContextVar[Given | None] = ContextVar("given", default=None)


def hoist(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options that name a credential, wherever they stand, and the rest."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in CREDENTIALS:
            front += [word, *(value for value in [next(words, None)] if value)]
        elif word.partition("=")[0] in CREDENTIALS:
            front.append(word)
        else:
            rest.append(word)
    return front, rest
