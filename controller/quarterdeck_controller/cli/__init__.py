"""The operator's commands, one file a noun, each loaded only when it is used."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from quarterdeck_controller.cli.options import GIVEN, Given, hoist
from quarterdeck_controller.cli.output import (
    EXIT_INTERRUPTED,
    exit_of,
    report_error,
)
from quarterdeck_shared.errors import QuarterdeckError

NOUNS = MappingProxyType(
    {
        "init": "Make a fleet home: keys, certificates, repository, database.",
        "model": "Quantize, inspect and evaluate models.",
        "class": "Show the device classes and their target profiles.",
        "key": "Who signs what: keys, requests, signatures, expiries.",
        "release": "Sign variants, list what is released, and take it back.",
        "explain": "Why a device runs what it runs: its chain to the root.",
        "device": "Enrol devices and see how they are.",
        "broker": "Configure a broker that somebody else runs.",
        "serve": "Run the controller and, by default, its broker.",
        "rollout": "Move devices to a release in waves.",
        "monitor": "Accuracy and latency per device, class and release.",
        "operator": "Say who may do what, and log in.",
        "audit": "See and verify the record of every act and decision.",
        "demo": "See it all work on this machine in two minutes.",
    }
)
"""Every noun with its line of help. Its module is ``cli/<noun>_.py`` and holds either
``app``, a group of verbs, or ``command``, for a noun that is its own verb."""


def main() -> None:
    """Run ``quarterdeck``; an error a person can act on is explained, not traced."""
    front, rest = hoist(sys.argv[1:])
    try:
        build(rest)([*front, *rest])
    except QuarterdeckError as error:
        report_error(error)
        sys.exit(exit_of(error))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)  # while the command was still being loaded


def build(arguments: Sequence[str]) -> typer.Typer:
    """Return the program with only the noun that ``arguments`` name loaded."""
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(quarterdeck)
    completing = "_QUARTERDECK_COMPLETE" in os.environ
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for noun, sentence in NOUNS.items():
        if completing or noun == wanted:
            _load(app, noun, sentence)
        else:
            app.command(noun, help=sentence)(_not_loaded)
    return app


def quarterdeck(
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="QUARTERDECK_TOKEN_FILE",
            help="A file with your token; QUARTERDECK_TOKEN may hold the token itself.",
        ),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            envvar="QUARTERDECK_IDENTITY",
            help="A file with your certificate and its key.",
        ),
    ] = None,
) -> None:
    """The command deck for a fleet of edge devices."""
    GIVEN.set(Given(token_file, identity))


def _load(app: typer.Typer, noun: str, sentence: str) -> None:
    module = importlib.import_module(f"quarterdeck_controller.cli.{noun}_")
    if hasattr(module, "command"):
        app.command(noun, help=sentence)(module.command)
    else:
        app.add_typer(module.app, name=noun, help=sentence)


def _not_loaded() -> None:
    raise RuntimeError("a noun that was not named on the command line was called")
