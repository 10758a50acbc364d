"""``quarterdeck key sign``: read what a change does, decide, and sign it.

It works on a machine that has never seen the fleet: all that is needed is in the
folder, and all that is in the folder is checked before it is believed.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tuf.api.metadata import Targets

from quarterdeck_controller.cli.options import JsonOption
from quarterdeck_controller.cli.output import confirm, err, out, print_json
from quarterdeck_controller.cli.passphrases import PassphraseOption, secrets
from quarterdeck_controller.release.gate import Inspector, allowed_by
from quarterdeck_controller.repository.describe import describe, printable
from quarterdeck_controller.repository.exported import (
    Exported,
    keep_answer,
    read_exported,
    sign,
)
from quarterdeck_controller.repository.keyfile import KeyFile, fingerprint
from quarterdeck_controller.repository.requests import MAX_METADATA_BYTES
from quarterdeck_controller.repository.roles import TARGETS, role_class
from quarterdeck_controller.repository.seal import key_name, unseal
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index, Part


def sign_request(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What key export has written.")
    ],
    *,
    key: Annotated[Path, typer.Option("--key", help="Your key: NAME.pem or NAME.hsm.")],
    root: Annotated[
        Path | None,
        typer.Option("--root", help="A root.json of the fleet that you kept."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Sign without being asked again.")
    ] = False,
    profile: Annotated[
        list[Path] | None,
        typer.Option(help="A class's own profile, for what its models may hold."),
    ] = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a request changes, and sign it when you agree (needs no home)."""
    trusted = None if root is None else _root(root)
    exported = read_exported(folder, trusted)
    _check_private(key)
    file, tell = KeyFile(key), secrets(passphrase_file)
    # An encrypted file without its public half tells its id only when it is opened.
    keyid = file.keyid() or file.signer(tell).public_key.keyid
    roles = exported.may_sign(keyid)
    lines = {role: _lines(exported, role, profile or ()) for role in roles}
    if not as_json:
        _print(exported, lines, trusted=trusted is not None)
    if not file.is_encrypted():
        err.print(f"{key} has no passphrase: whoever copies it can sign", markup=False)
    if not yes:
        confirm(f"\nSign {', '.join(roles)}?")
    answer = sign(exported, file.signer(tell), roles)
    kept = keep_answer(folder, answer)
    if as_json:
        print_json(
            {
                "request": answer.request,
                "keyid": answer.keyid,
                "changes": lines,
                "file": str(kept),
            }
        )
    else:
        out.print(
            f"Signed {', '.join(answer.signatures)} as {fingerprint(answer.keyid)}: "
            f"{kept}\nBring the folder back, or this file of it.",
            markup=False,
        )


def _check_private(key: Path) -> None:
    if key.suffix == ".pub":
        raise RejectedError(
            Code.KEY_INVALID,
            f"{key} is the public half, which cannot sign; the key is the file "
            f"{key.stem}.pem or {key.stem}.hsm that was made with it",
        )


def _root(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_METADATA_BYTES)
    except OSError as error:
        raise RejectedError(Code.NOT_FOUND, f"{file}: {error.strerror}") from error


def _lines(exported: Exported, role: str, profile: Sequence[Path]) -> tuple[str, ...]:
    request, new = exported.request, exported.request.changed()[role]
    told = describe(role, new, exported.chain, request.terms.created)
    device_class = role_class(role)
    if device_class is None:
        return told
    chain = exported.chain
    # Provenance counts by the keys in force, never by those that the request names.
    targets = chain.targets if chain else request.changed()[TARGETS]
    before = chain.delegated.get(role) if chain else None
    assert isinstance(new, Targets)
    assert isinstance(targets, Targets)
    inspector = Inspector(
        targets, allowed=allowed_by(profile), unseal=partial(_unsealed, exported)
    )
    examined = inspector.role(
        device_class, before, new, lambda name: _attachment(exported, name)
    )
    return (*told, *(printable(line) for line in examined.lines()))


def _unsealed(exported: Exported, index: Index, part: Part, data: bytes) -> bytes:
    key = _attachment(exported, f"seals/{key_name(index)}")
    if key is None:
        raise RejectedError(
            Code.GATE_FAILED, f"{part.name} is sealed, and its key is not in the folder"
        )
    return unseal(part, data, key.decode("ascii", "replace"))


def _attachment(exported: Exported, name: str) -> bytes | None:
    for attached in exported.request.terms.attachments:
        if attached.name == name:
            break
    else:
        return None
    try:
        with exported.request.attachment(name).open("rb") as file:
            data = file.read(attached.length + 1)
    except OSError:
        return None
    same = hashlib.sha256(data).hexdigest() == attached.sha256
    return data if same else None


def _print(
    exported: Exported, lines: dict[str, tuple[str, ...]], *, trusted: bool
) -> None:
    request = exported.request
    out.print(
        f"The request {request.id}, made {request.terms.created:%Y-%m-%d %H:%M} UTC, "
        f"says: {printable(request.why)}",
        markup=False,
    )
    if exported.anchor is None:
        out.print("It founds a fleet: check each key's id with its holder.")
    elif not trusted:
        out.print(
            f"It is of the fleet whose first root is {fingerprint(exported.anchor)}; "
            "compare that, or name a root that you kept with --root.",
            markup=False,
        )
    for role, told in lines.items():
        out.print(f"\nYour key signs for {role}:", markup=False)
        for line in told:
            out.print(f"  {line}", markup=False)
    others = [role for role in request.roles if role not in lines]
    if others:
        out.print(f"\nOthers sign for {', '.join(others)}.", markup=False)
