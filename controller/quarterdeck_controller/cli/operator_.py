"""``quarterdeck operator``: who may do what.

This guards against mistakes, separates duties and makes a record. Somebody who can
write the files of the home can go around it: keep the home on a machine that operators
do not log in to, or trust those who do.
"""

import sys
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from quarterdeck_controller.access import operators
from quarterdeck_controller.access.authenticate import LOCAL_PREFIX
from quarterdeck_controller.access.operators import Lent
from quarterdeck_controller.access.roles import Act, Role
from quarterdeck_controller.cli.credentials import forget, keep, kept_file
from quarterdeck_controller.cli.opened import Opened, opened, span
from quarterdeck_controller.cli.options import (
    DEFAULT_HOME,
    GIVEN,
    Given,
    HomeOption,
    JsonOption,
)
from quarterdeck_controller.cli.output import err, out, print_json, print_table
from quarterdeck_controller.home import Home
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.store.access import Operator
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The operator's name.")]
RoleOption = Annotated[
    Role, typer.Option(help="Each may also do what those before it may.")
]
ValidOption = Annotated[
    str, typer.Option(help="How long the credential is good, such as 90d.")
]
CertificateOption = Annotated[
    bool,
    typer.Option("--certificate/--token", help="Give a certificate, or a token."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="The folder that the certificate and its key go to."),
]
MAX_TYPED = 200
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A credential that was just made: what is kept of it, and what is given away."""

    lent: Lent
    token: str | None = None
    file: Path | None = None


@app.command()
def add(
    name: NameArgument,
    *,
    role: RoleOption,
    valid: ValidOption = "90d",
    certificate: CertificateOption = False,
    out_dir: OutOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Add an operator; the first one is an admin, and then every command asks who."""
    good_for = span(valid)
    with opened(home, Act.OPERATOR_CHANGE, f"operator:{name}") as fleet:
        operators.check_name(name)
        with fleet.store.write() as records:
            now, first = fleet.clock.now(), not records.operators.exist()
            fresh = _fresh(fleet, name, good_for, _folder(certificate, out_dir, name))
            made = operators.add(records, name, role, fresh.lent, now)
            fleet.audit(f"operator:{name}", what="add", **_told(made))
    _give(made, fresh, as_json=as_json)
    if first:
        err.print(
            "From now on every command on this home asks who you are. Log in with:"
            " quarterdeck operator login"
        )


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the operators there are and were."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        found, now = records.operators.all(), fleet.clock.now()
    if as_json:
        print_json([_summary(it, now) for it in found])
    elif not found:
        out.print(
            "No operators yet: whoever is at this machine is the admin. Add one with:"
            " quarterdeck operator add NAME --role admin"
        )
    else:
        print_table(
            ("operator", "role", "credential", "state", "until"),
            [
                (it.name, it.role, _kind(it), _state(it, now), _moment(it.expires_at))
                for it in found
            ],
        )


@app.command()
def show(
    name: NameArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Show one operator and what they did last."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        summary = _summary(operators.get(records, name), fleet.clock.now())
        last = records.audit.newest(10, actor=name)
    if as_json:
        print_json(summary | {"last": [it.number for it in last]})
        return
    for key, value in summary.items():
        if key != "v":
            out.print(f"[bold]{key:<12}[/] ", end="")
            out.print("-" if value is None else str(value), markup=False)
    if last:
        out.print()
        print_table(
            ("entry", "at", "act", "subject", "outcome"),
            [
                (it.number, _moment(it.at), it.act, it.subject, it.outcome)
                for it in last
            ],
            right=("entry",),
        )


@app.command("role")
def role_(
    name: NameArgument,
    role: Annotated[Role, typer.Argument(help="The new role.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Give an operator another role."""
    with (
        opened(home, Act.OPERATOR_CHANGE, f"operator:{name}") as fleet,
        fleet.store.write() as records,
    ):
        was = operators.get(records, name).role
        now = fleet.clock.now()
        changed = operators.change_role(records, name, role, now)
        fleet.audit(f"operator:{name}", what="role", role=role, was=was)
    _say(changed, now, f"{name} is {role} now; was {was}", as_json=as_json)


@app.command()
def revoke(
    name: NameArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Let an operator in no more, from this moment on."""
    with (
        opened(home, Act.OPERATOR_CHANGE, f"operator:{name}") as fleet,
        fleet.store.write() as records,
    ):
        now = fleet.clock.now()
        revoked = operators.revoke(records, name, now)
        fleet.audit(f"operator:{name}", what="revoke")
    _say(revoked, now, f"{name} is revoked", as_json=as_json)


@app.command()
def renew(
    name: NameArgument,
    *,
    valid: ValidOption = "90d",
    certificate: CertificateOption = False,
    out_dir: OutOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Give an operator a new credential; the one before is good no longer."""
    good_for = span(valid)
    with (
        opened(home, Act.OPERATOR_CHANGE, f"operator:{name}") as fleet,
        fleet.store.write() as records,
    ):
        operators.current(records, name)
        fresh = _fresh(fleet, name, good_for, _folder(certificate, out_dir, name))
        renewed = operators.renew(records, name, fresh.lent)
        fleet.audit(f"operator:{name}", what="renew", **_told(renewed))
    _give(renewed, fresh, as_json=as_json)


@app.command()
def recover(
    name: NameArgument,
    *,
    valid: ValidOption = "1d",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Make NAME an admin with a new token, when no admin can get in any more.

    Only whoever owns the home's files can, and the audit log says so.
    """
    good_for = span(valid)
    with (
        opened(home, Act.OPERATOR_RECOVER, f"operator:{name}") as fleet,
        fleet.store.write() as records,
    ):
        fresh = _fresh(fleet, name, good_for, None)
        now = fleet.clock.now()
        recovered = operators.recover(records, name, fresh.lent, now)
        fleet.audit(f"operator:{name}", what="recover", **_told(recovered))
    _give(recovered, fresh, as_json=as_json)


@app.command()
def login(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Keep your token for this home, so that commands find it."""
    GIVEN.set(replace(GIVEN.get() or Given(), token_file=None, token=_typed()))
    with opened(home, Act.SEE) as fleet:
        if fleet.actor.name.startswith(LOCAL_PREFIX):
            raise RejectedError(
                Code.NOT_ALLOWED, "this home has no operators: no command asks for one"
            )
        token = (GIVEN.get() or Given()).token or ""
        file = _kept(fleet.home, token)
    if as_json:
        print_json({"v": 1, "operator": fleet.actor.name, "file": str(file)})
        return
    out.print(f"You are [bold]{fleet.actor.name}[/], {fleet.actor.role} of this home.")
    out.print(f"Your token is kept in {file}", markup=False)


@app.command()
def logout(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Forget the token that is kept for this home."""
    place = Home.open(home)
    was_there = forget(place)
    if as_json:
        print_json({"v": 1, "forgotten": was_there})
    else:
        told = "Forgot the token in" if was_there else "No token is kept in"
        out.print(f"{told} {kept_file(place)}", markup=False)


@app.command()
def whoami(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Say who you are to this home."""
    with opened(home, Act.SEE) as fleet:
        actor = fleet.actor
    if as_json:
        until = actor.expires_at and actor.expires_at.isoformat(timespec="seconds")
        print_json({"v": 1, "actor": actor.name, "role": actor.role, "expires": until})
        return
    until = f" until {_moment(actor.expires_at)} UTC" if actor.expires_at else ""
    out.print(f"{actor.name}, {actor.role}{until}", markup=False)


def _folder(certificate: bool, out_dir: Path | None, name: str) -> Path | None:
    if out_dir is not None and not certificate:
        raise typer.BadParameter("--out is where a certificate goes: add --certificate")
    return (out_dir or Path(name)).absolute() if certificate else None


def _fresh(fleet: Opened, name: str, valid: timedelta, folder: Path | None) -> _Fresh:
    now = fleet.clock.now()
    if folder is None:
        token = operators.new_token()
        return _Fresh(operators.lent_token(token, now, valid), token=token)
    authority = Authority.open(fleet.home.authority, fleet.clock)
    identity = authority.issue_operator(name, days=operators.check_valid(valid) / _DAY)
    leaf = x509.load_pem_x509_certificate(identity.certificate_pem)
    file = folder / "identity.pem"
    _write(file, identity.key_pem + identity.certificate_pem)
    return _Fresh(operators.lent_certificate(leaf), file=file)


def _write(file: Path, data: bytes) -> None:
    if file.exists():
        raise RejectedError(Code.CONFLICT, f"{file} exists already; name another --out")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durable(file, data, mode=0o600)
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{file} cannot be written: {error.strerror}"
        ) from error


def _kept(home: Home, token: str) -> Path:
    try:
        return keep(home, token)
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{kept_file(home)} cannot be written: {error.strerror}"
        ) from error


def _typed() -> str:
    if sys.stdin.isatty():
        typed: str = typer.prompt("Your token", hide_input=True)
    else:
        typed = sys.stdin.readline(MAX_TYPED + 1)
    return typed.strip()


def _give(operator: Operator, fresh: _Fresh, *, as_json: bool) -> None:
    if as_json:
        file = str(fresh.file) if fresh.file else None
        print_json(
            {
                "v": 1,
                "operator": operator.name,
                "role": operator.role,
                "expires": operator.expires_at.isoformat(timespec="seconds"),
                "token": fresh.token,
                "file": file,
            }
        )
        return
    until = _moment(operator.expires_at)
    article = "an" if operator.role[0] in "ao" else "a"
    out.print(
        f"[bold]{operator.name}[/] is {article} {operator.role} until {until} UTC."
    )
    if fresh.token is not None:
        out.print("The token, shown this once:\n")
        out.print(f"  {fresh.token}\n", markup=False)
        out.print("Give it to them; they keep it with: quarterdeck operator login")
    else:
        out.print(f"Certificate and key: {fresh.file}", markup=False)
        out.print("Give it to them; they use it with: quarterdeck --identity FILE ...")


def _say(operator: Operator, now: datetime, line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_summary(operator, now))
    else:
        out.print(line, markup=False)


def _summary(operator: Operator, now: datetime) -> dict[str, object]:
    revoked = operator.revoked_at
    return {
        "v": 1,
        "operator": operator.name,
        "role": str(operator.role),
        "credential": _kind(operator),
        "state": _state(operator, now),
        "created": operator.created_at.isoformat(timespec="seconds"),
        "expires": operator.expires_at.isoformat(timespec="seconds"),
        "revoked": revoked.isoformat(timespec="seconds") if revoked else None,
    }


def _told(operator: Operator) -> dict[str, object]:
    return {
        "role": operator.role,
        "credential": _kind(operator),
        "expires": operator.expires_at.isoformat(timespec="seconds"),
    }


def _kind(operator: Operator) -> str:
    return "token" if operator.certificate is None else "certificate"


def _state(operator: Operator, now: datetime) -> str:
    if operator.revoked_at is not None:
        return "revoked"
    return "in force" if operator.usable(now) else "expired"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
