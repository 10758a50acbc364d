"""Ask for passphrases and PINs: from a file, the environment, or a person."""

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.repository.keyfile import (
    FILE_VARIABLE,
    VARIABLE,
    Secrets,
    from_environment,
    read_secret,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MIN_LENGTH = 8

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="A file whose first line is the passphrase or PIN; default: ask.",
    ),
]


def secrets(file: Path | None) -> Secrets:
    """Return how a passphrase or PIN is found: ``file``, environment, terminal."""

    def tell(wanted: str) -> str | None:
        told = from_environment(wanted) if file is None else read_secret(file)
        if told is None and sys.stdin.isatty():
            return getpass.getpass(f"{wanted[0].upper()}{wanted[1:]}: ")
        return told

    return tell


def new_passphrase(name: str, file: Path | None) -> str:
    """Return the passphrase that shall protect a new key, asked for twice.

    Raises:
        RejectedError: ``KEY_LOCKED`` when there is none, it is too short, or the two
            differ.
    """
    told = from_environment(name) if file is None else read_secret(file)
    if told is None and sys.stdin.isatty():
        told = getpass.getpass(f"New passphrase of {name}: ")
        if getpass.getpass("The same again: ") != told:
            raise RejectedError(Code.KEY_LOCKED, "the two passphrases differ")
    if told is None:
        raise RejectedError(
            Code.KEY_LOCKED,
            f"{name} needs a passphrase, and nobody can be asked: give it with "
            f"--passphrase-file, {FILE_VARIABLE} or {VARIABLE}",
        )
    if len(told) < MIN_LENGTH:
        raise RejectedError(
            Code.KEY_LOCKED,
            f"a passphrase of {len(told)} letters for {name}; at least {MIN_LENGTH} "
            "are needed, and a thief of the file can try for years",
        )
    return told
