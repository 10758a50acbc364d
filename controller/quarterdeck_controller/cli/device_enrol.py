"""The commands that invite machines: one, many, and what is still open."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.device_text import named
from quarterdeck_controller.cli.opened import Opened, hint_if_unserved, opened, span
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import err, out, print_json, print_table
from quarterdeck_controller.fleet import bulk
from quarterdeck_controller.fleet.inventory import enrol, known
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.enrol import (
    CLAIM,
    TOKEN,
    check_folder,
    discard,
    write_bundle,
    write_secrets,
)
from quarterdeck_controller.identity.revocation import found, make_room
from quarterdeck_controller.identity.tokens import Invitation, invite
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.store.records import Device
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

ValidOption = Annotated[
    str, typer.Option("--valid", help="How long the invitation can be used.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Where its bundle goes; by default ./<id>."),
]
SourceOption = Annotated[
    Path | None, typer.Option(help="The folder of samples that its agent runs on.")
]
TokenOnlyOption = Annotated[
    bool,
    typer.Option(
        "--token-only",
        help="Write token and claim alone, for a machine that has the rest.",
    ),
]
_VALID = "7d"


def enrol_(
    device: Annotated[str, typer.Argument(help="The new device's id.")],
    *,
    device_class: Annotated[str, typer.Option("--class", help="Its device class.")],
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag; may be repeated.")
    ] = None,
    out_dir: OutOption = None,
    source: SourceOption = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="A new invitation for a device there is."),
    ] = False,
    valid: ValidOption = _VALID,
    token_only: TokenOnlyOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Invite a machine: write the bundle with which it enrols itself."""
    with opened(home, Act.DEVICE_ENROL, f"device:{device}") as fleet:
        check_class(fleet, device_class)
        order = _Order(
            (out_dir or Path(device)).absolute(), source, span(valid), token_only
        )
        now = fleet.clock.now()
        with _inviting(fleet, order) as records:
            entered = (
                known(records, device, device_class)
                if again
                else enrol(records, device, device_class, tags=tag or (), now=now)
            )
            invitation = order.carry_out(fleet, records, entered, now)
        _say(fleet, "invited", entered, invitation, order, as_json=as_json)


def replace(
    device: Annotated[str, typer.Argument(help="The device whose name goes on.")],
    *,
    out_dir: OutOption = None,
    source: SourceOption = None,
    valid: ValidOption = _VALID,
    token_only: TokenOnlyOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Put new hardware in a device's place, revoked or not: the old one is shut out.

    Name, class, tags, history and what is assigned stay.
    """
    with opened(home, Act.DEVICE_REPLACE, f"device:{device}") as fleet:
        order = _Order(
            (out_dir or Path(device)).absolute(), source, span(valid), token_only
        )
        now = fleet.clock.now()
        with _inviting(fleet, order) as records:
            entered = make_room(records, device, now=now)
            invitation = order.carry_out(fleet, records, entered, now)
        _say(fleet, "replaced", entered, invitation, order, as_json=as_json)


def enrol_many(
    ids: Annotated[
        Path, typer.Argument(help="CSV: id[,class[,tags]]; - for the input.")
    ],
    *,
    device_class: Annotated[
        str | None, typer.Option("--class", help="The class of lines without one.")
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where what is made goes.")],
    valid: ValidOption = _VALID,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Invite many machines at once, all of a list or none, for a factory line."""
    folder = out_dir.absolute()
    data = _read(ids)
    with opened(home, Act.DEVICE_ENROL) as fleet:
        settings, now = fleet.home.settings(), fleet.clock.now()
        if device_class is not None:
            check_class(fleet, device_class)
        check_folder(folder)
        with _discarding(folder), fleet.store.write() as records:
            taken = frozenset(records.devices.classes()) | set(
                records.devices.revoked()
            )
            lines = bulk.read_list(
                data, device_class, classes=settings.classes, known=taken
            )
            if not as_json:
                err.print(f"inviting {len(lines)} devices", style="dim")
            authority = Authority.open(fleet.home.authority, fleet.clock)
            entered = bulk.entered(lines, now)
            records.devices.add_all(entered)
            invitations = invite(
                records, authority, entered, now=now, valid=span(valid)
            )
            bulk.write_factory_folder(
                folder,
                invitations,
                settings,
                authority=authority.root_file.read_bytes(),
                root=Repository(fleet.home, fleet.clock).newest_root(),
            )
            claim = invitations[0].claim
            fleet.audit(f"claim:{claim}", devices=len(lines), list=ids.name)
        _say_many(fleet, invitations, folder, as_json=as_json)


def tokens(
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List the invitations that can still be used."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        there = records.tokens.open(fleet.clock.now())
    rows = [
        {
            "device": it.device,
            "claim": it.claim,
            "made": it.created_at.isoformat(timespec="seconds"),
            "until": it.expires_at.isoformat(timespec="seconds"),
        }
        for it in there
    ]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(tuple(rows[0]), [tuple(it.values()) for it in rows])
    else:
        out.print("No invitation is open; make one with: quarterdeck device enrol ID")


def withdraw_token(
    devices: Annotated[list[str], typer.Argument(help="Whose invitations.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Withdraw the open invitations of devices, at once."""
    with opened(home, Act.DEVICE_ENROL) as fleet:
        with fleet.store.write() as records:
            now, count = fleet.clock.now(), 0
            for device in dict.fromkeys(devices):
                found(records, device)
                count += len(records.tokens.open(now, device))
                records.tokens.withdraw([device], now)
                fleet.audit(f"device:{device}", withdrew="invitation")
        if as_json:
            print_json({"v": 1, "devices": devices, "withdrawn": count})
        else:
            out.print(f"withdrew {count} open invitations of {len(devices)} devices")


class _Order:
    """How one machine is to be invited."""

    def __init__(
        self, folder: Path, source: Path | None, valid: timedelta, token_only: bool
    ) -> None:
        self.folder = folder
        self.source = source
        self.valid = valid
        self.token_only = token_only

    def carry_out(
        self, fleet: Opened, records: Records, device: Device, now: datetime
    ) -> Invitation:
        authority = Authority.open(fleet.home.authority, fleet.clock)
        (invitation,) = invite(records, authority, [device], now=now, valid=self.valid)
        if self.token_only:
            write_secrets(self.folder, invitation)
            return invitation
        write_bundle(
            fleet.home,
            device.id,
            device.device_class,
            self.folder,
            fleet.clock,
            invitation=invitation,
            source=self.source,
        )
        return invitation


@contextmanager
def _inviting(fleet: Opened, order: _Order) -> Iterator[Records]:
    """Give the records; they are committed after the bundle is complete.

    A failure leaves neither a device that nobody can start nor a bundle that nobody
    knows.
    """
    if order.token_only:
        with fleet.store.write() as records:
            yield records
        return
    check_folder(order.folder)
    with _discarding(order.folder), fleet.store.write() as records:
        yield records


@contextmanager
def _discarding(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        discard(folder)
        raise


def check_class(fleet: Opened, device_class: str) -> None:
    """Refuse a class that the fleet does not have.

    Raises:
        RejectedError: ``PROFILE_INVALID``.
    """
    classes = fleet.home.settings().classes
    if device_class not in classes:
        raise RejectedError(
            Code.PROFILE_INVALID,
            f"this fleet has no class {device_class!r}; it has {', '.join(classes)}",
        )


def _read(ids: Path) -> bytes:
    try:
        if str(ids) == "-":
            return typer.get_binary_stream("stdin").read(bulk.MAX_LIST_BYTES + 1)
        with ids.open("rb") as file:
            return file.read(bulk.MAX_LIST_BYTES + 1)
    except OSError as error:
        raise RejectedError(Code.LIST_INVALID, f"{ids}: {error.strerror}") from error


def _say(
    fleet: Opened,
    done: str,
    device: Device,
    invitation: Invitation,
    order: _Order,
    *,
    as_json: bool,
) -> None:
    until = invitation.expires
    if as_json:
        told = {"bundle": str(order.folder), "until": until.isoformat("T", "seconds")}
        print_json({"v": 1, **named(device), **told})
        return
    out.print(f"{done} [bold]{device.id}[/] as {device.device_class},", end=" ")
    out.print(f"until {until:%Y-%m-%d %H:%M} UTC; its bundle: ", end="")
    out.print(str(order.folder), markup=False)
    if order.token_only:
        out.print(
            f"put {TOKEN} and {CLAIM} beside its agent.toml and run: quarterdeck-agent"
            " enrol --config agent.toml --again",
            markup=False,
        )
    else:
        out.print(
            "it holds secrets: take it to the machine, and start it there with:"
            f" quarterdeck-agent run --config {order.folder / 'agent.toml'}",
            markup=False,
        )
    hint_if_unserved(fleet.home)


def _say_many(
    fleet: Opened, invitations: Sequence[Invitation], folder: Path, *, as_json: bool
) -> None:
    until = invitations[0].expires
    if as_json:
        told = {"devices": len(invitations), "claim": invitations[0].claim}
        when = until.isoformat("T", "seconds")
        print_json({"v": 1, **told, "until": when, "folder": str(folder)})
        return
    out.print(f"invited {len(invitations)} devices until {until:%Y-%m-%d %H:%M} UTC")
    out.print(f"for the line: {folder}", markup=False)
    out.print(
        f"on each machine: ca.pem, root.json, {CLAIM}; agent-<class>.toml as agent.toml"
        f" with its id for {bulk.PLACEHOLDER}; its token of {bulk.TOKENS} in the file"
        f" {TOKEN}",
        markup=False,
    )
    hint_if_unserved(fleet.home)
