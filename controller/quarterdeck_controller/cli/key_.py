"""``quarterdeck key``: who signs what, and the ceremony with those who hold the keys.

``create`` and ``sign`` work on any machine, without a fleet home: where the keys of
root, targets, classes and provenance are kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli import key_authority, key_changes, key_signing
from quarterdeck_controller.cli.key_text import (
    outcome_json,
    print_deadlines,
    print_keys,
    print_lacks,
    print_outcome,
    print_requests,
    request_json,
)
from quarterdeck_controller.cli.opened import opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json
from quarterdeck_controller.cli.passphrases import (
    PassphraseOption,
    new_passphrase,
    secrets,
)
from quarterdeck_controller.home import Home
from quarterdeck_controller.repository.ceremony import Lack
from quarterdeck_controller.repository.expiry import (
    certificates,
    deadlines,
    key_rows,
    soonest,
)
from quarterdeck_controller.repository.exported import (
    by_role,
    export,
    read_answers,
    read_offered,
)
from quarterdeck_controller.repository.keyfile import (
    PublicHalf,
    Secrets,
    check_free,
    fingerprint,
    keep_place,
    make_key,
    tokens,
)
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.place import Place
from quarterdeck_controller.repository.repository import Committed, Repository
from quarterdeck_controller.repository.requests import Request
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

app = typer.Typer(no_args_is_help=True)

IdArgument = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="The request; needless when one.")
]
FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What key export has written.")
]


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="Its name: root-1, targets, class-<class>, ...")
    ],
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the key is kept.")],
    kind: Annotated[
        Literal["ed25519", "p256", "pkcs11"],
        typer.Option(help="pkcs11: in a token, which --module and --token name."),
    ] = "ed25519",
    module: Annotated[
        Path | None, typer.Option(help="The token's PKCS#11 library.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="The token's label.")] = None,
    label: Annotated[
        str | None, typer.Option(help="The key's label in the token; default: NAME.")
    ] = None,
    passphrase_file: PassphraseOption = None,
    unencrypted: Annotated[
        bool, typer.Option("--unencrypted", help="Only into the keys of a test home.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a key, encrypted or in a token, and its public half."""
    if not is_name(name):
        raise RejectedError(Code.NAME_INVALID, f"{name!r} cannot name a key")
    check_free(out_dir, name)
    if kind == "pkcs11":
        place = _place(module, token, label or name, secrets(passphrase_file))
        half = keep_place(out_dir, name, place, SystemClock().now())
    else:
        if unencrypted:
            _check_test_home(out_dir)
        secret = None if unencrypted else new_passphrase(name, passphrase_file)
        half = make_key(out_dir, name, kind, secret, SystemClock().now())
    _print_created(half, out_dir, as_json=as_json)


@app.command("list")
def list_keys(*, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the keys in force by role, and where they are."""
    with opened(home, Act.SEE) as it:
        chain = Repository(it.home, it.clock).chain()
        rows = key_rows(chain, KeyFolder(it.home.keys).known())
    if as_json:
        print_json([
            {"role": r.role, "name": r.name, "keyid": r.keyid, "where": r.where}
            for r in rows
        ])  # fmt: skip
    else:
        print_keys(rows)


@app.command()
def show(*, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show roles, thresholds and versions, and what expires when."""
    with opened(home, Act.SEE) as it:
        repository, now = Repository(it.home, it.clock), it.clock.now()
        chain, requests = repository.chain(), _standing(repository)
        asked = {role: r.id for r, _ in requests for role in r.roles}
        here = KeyFolder(it.home.keys).known()
        found = soonest(
            [*deadlines(chain, here, asked), *certificates(it.home.authority)]
        )
    if as_json:
        print_json({
            "deadlines": [
                {
                    "what": d.what,
                    "version": d.version,
                    "signed_by": d.signed_by,
                    "expires": d.expires.isoformat(),
                    "days_left": round(d.left(now).total_seconds() / 86_400, 1),
                    "keys": d.where,
                    "warning": d.warning(now) or None,
                }
                for d in found
            ],
            "requests": [request_json(r, lacks or ()) for r, lacks in requests],
        })  # fmt: skip
        return
    print_deadlines(found, now)
    if requests:
        out.print("\nWaiting for signatures:")
        print_requests(requests)


@app.command()
def requests(*, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the changes that wait for signatures, and whose they are."""
    with opened(home, Act.SEE) as it:
        repository = Repository(it.home, it.clock)
        found, damaged = _standing(repository), repository.damaged_requests()
    if as_json:
        print_json([request_json(request, lacks or ()) for request, lacks in found])
        return
    print_requests(found)
    for id_ in damaged:
        out.print(
            f"{id_}  cannot be read: quarterdeck key cancel {id_}, and ask again",
            markup=False,
        )


@app.command("export")
def export_request(
    request: IdArgument = None,
    *,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="A new folder; default: by the id.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write a request to a folder that is carried to those who hold the keys."""
    with opened(home, Act.KEY_CHANGE) as it:
        repository = Repository(it.home, it.clock)
        with repository.exclusive():
            found = _request(repository, request)
            it.audit(f"request:{found.id}", why=found.why)
            lacks = repository.lacks(found)
            folder = out_dir or Path(f"request-{found.id}")
            export(found, repository.in_force(), folder)
    if as_json:
        print_json({"folder": str(folder), **request_json(found, lacks)})
        return
    out.print(f"{folder} holds the request {found.id}: {found.why}", markup=False)
    print_lacks(lacks)
    if any(it.name.startswith("seals/") for it in found.terms.attachments):
        out.print(
            "It holds the key of a sealed model, so that its holder can look at it: "
            f"let nobody\nelse read {folder}, and delete it afterwards.",
            markup=False,
        )
    out.print(
        f"Each holder: quarterdeck key sign {folder} --key FILE, and then here:\n"
        f"  quarterdeck key import {folder}",
        markup=False,
    )


@app.command("import")
def import_signatures(
    folder: FolderArgument,
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Take in what holders have signed; with enough signatures it comes into force."""
    with opened(home, Act.KEY_CHANGE) as it:
        repository = Repository(it.home, it.clock)
        with repository.exclusive():
            request = _asked_for(repository, folder)
            it.audit(f"request:{request.id}", why=request.why)
            answers = read_answers(folder)
            for answer in answers:
                if answer.request != request.id:
                    raise RejectedError(
                        Code.SIGNATURE_INVALID,
                        f"{answer.keyid[:12]} signed the request {answer.request}, "
                        f"the folder holds {request.id}",
                    )
            outcome = repository.accept(request, by_role(answers))
            lacks = _lacks(repository, outcome)
    if as_json:
        print_json(outcome_json(outcome, lacks))
        return
    out.print(f"{len(answers)} signer(s) for the request {request.id}.", markup=False)
    if isinstance(outcome, Committed):
        print_outcome(outcome, ())
    else:
        out.print("Still missing:")
        print_lacks(lacks)


@app.command()
def cancel(
    request: Annotated[str, typer.Argument(metavar="ID", help="The request.")],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Give a request up; signatures for it are worth nothing afterwards."""
    with opened(home, Act.KEY_CHANGE, f"request:{request}") as it:
        repository = Repository(it.home, it.clock)
        with repository.exclusive():
            repository.cancel(request)
    if as_json:
        print_json({"cancelled": request})
    else:
        out.print(f"Given up: {request}", markup=False)


app.command("sign")(key_signing.sign_request)
key_changes.register(app)
app.command("authority-renew")(key_authority.authority_renew)


def _place(module: Path | None, token: str | None, label: str, tell: Secrets) -> Place:
    if module is None or token is None:
        raise typer.BadParameter("a key in a token needs --module and --token")
    pin = tell(f"the PIN of the token {token}")
    if not pin:
        raise RejectedError(Code.KEY_LOCKED, f"nobody could be asked for {token}'s PIN")
    place: Place = tokens().make_key(str(module.absolute()), token, label, pin)
    return place


def _check_test_home(folder: Path) -> None:
    home = Home(folder.absolute().parent)
    is_keys = folder.absolute() == home.keys and home.settings_file.is_file()
    if not is_keys or not home.settings().test:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"{folder} does not hold the keys of a test home: a key that signs in "
            "earnest has a passphrase",
        )


def _print_created(half: PublicHalf, folder: Path, *, as_json: bool) -> None:
    keyid = half.public().keyid
    files = [
        str(file.path) for file in KeyFolder(folder).files() if file.name == half.name
    ]
    if as_json:
        public = str(folder / f"{half.name}.pub")
        print_json(
            {"name": half.name, "keyid": keyid, "private": files[0], "public": public}
        )
        return
    out.print(f"{half.name} {fingerprint(keyid)}", markup=False)
    out.print(
        f"Keep {files[0]} to yourself, and its copy apart from it. Bring "
        f"{folder / half.name}.pub to whoever founds the fleet or adds the key, and "
        "tell them its id by another way.",
        markup=False,
    )


def _standing(
    repository: Repository,
) -> tuple[tuple[Request, Sequence[Lack] | None], ...]:
    """Return the open requests and what each lacks; None where its base is gone."""
    found: list[tuple[Request, Sequence[Lack] | None]] = []
    for request in repository.requests():
        try:
            found.append((request, repository.lacks(request)))
        except RejectedError as error:
            if error.code is not Code.CONFLICT:
                raise
            found.append((request, None))
    return tuple(found)


def _request(repository: Repository, wanted: str | None) -> Request:
    if wanted is not None:
        return repository.request(wanted)
    found = repository.requests()
    if len(found) != 1:
        known = ", ".join(it.id for it in found) or "none"
        raise RejectedError(Code.NOT_FOUND, f"name the request; open: {known}")
    return found[0]


def _asked_for(repository: Repository, folder: Path) -> Request:
    """Return our own copy of the request that ``folder`` was exported from."""
    offered = read_offered(folder)
    known = {request.id: request for request in repository.requests()}
    if offered.id not in known:
        raise RejectedError(
            Code.SIGNATURE_INVALID,
            f"{folder} holds the request {offered.id} ({offered.why}), which is not "
            f"open here: it is done, given up, of another fleet, or was changed on the "
            f"way; open: {', '.join(known) or 'none'}",
        )
    return known[offered.id]


def _lacks(repository: Repository, outcome: Committed | Request) -> tuple[Lack, ...]:
    return () if isinstance(outcome, Committed) else repository.lacks(outcome)
