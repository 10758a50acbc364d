"""``quarterdeck broker``: what a broker that somebody else runs has to be given."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.broker.handover import AHEAD, Kind, files, looking_ahead
from quarterdeck_controller.broker.port import Admission
from quarterdeck_controller.broker.process import write_files
from quarterdeck_controller.cli.opened import Opened, opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import EXIT_REFUSED, out, print_json
from quarterdeck_controller.identity.admission import LIST_FILE, admission
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

RELOADS = {
    Kind.MOSQUITTO: "kill -HUP of mosquitto",
    Kind.NATS: "nats-server --signal reload",
}
CERTIFICATES = ("ca.pem", "broker.pem")


@app.callback()
def _group() -> None:
    """Configuration of a broker that somebody else runs."""


@app.command()
def config(
    *,
    kind: Annotated[Kind, typer.Option(help="Which program the broker is.")],
    folder: Annotated[
        Path, typer.Option("--out", help="Folder that the files are written to.")
    ],
    at: Annotated[
        Path | None,
        typer.Option(help="Where they will lie on the broker's machine; as --out."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Address to listen at; that of the settings.")
    ] = None,
    revocations: Annotated[
        bool,
        typer.Option(
            help="Give mosquitto the list of revocations, too. It refuses every device"
            " when the list expires: only where it is carried over at least weekly."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Write nothing; tell whether it is up to date.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write the configuration and permissions, for nats-server or mosquitto."""
    with opened(home, Act.SEE) as fleet:
        wanted = _wanted(fleet, kind, at or folder.absolute(), listen, revocations)
        days = fleet.home.settings().certificate_days
        again_by = fleet.clock.now() + timedelta(days=days * AHEAD * 2 / 3)
    changed = _differing(folder, wanted) if check else _write(folder, wanted)
    if as_json:
        print_json({"folder": folder, "changed": changed, "again_by": again_by})
    else:
        _tell(kind, folder, changed, again_by, wrote=not check)
    if check and changed:
        raise typer.Exit(EXIT_REFUSED)


def _wanted(
    fleet: Opened, kind: Kind, at: Path, listen: str | None, revocations: bool
) -> Mapping[str, str]:
    now, settings = fleet.clock.now(), fleet.home.settings()
    with fleet.store.read() as records:
        live, claims = records.certificates.live(now), records.claims.live(now)
        newest = {
            device: it.generation
            for device, it in records.certificates.newest().items()
        }
        classes = records.devices.classes()
    admitted = admission(live, claims)
    who = Admission(
        looking_ahead(admitted.devices, classes, newest),
        admitted.claims,
        _read(fleet.home.authority / LIST_FILE).encode() if revocations else b"",
    )
    host, port = listen or settings.broker.host, settings.broker.port
    return {
        **files(kind, at, host, port, who),
        "ca.pem": _read(fleet.home.authority / "root.pem"),
        "broker.pem": _read(fleet.home.authority / "broker.pem"),
    }


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except OSError as error:
        raise RejectedError(
            Code.NOT_FOUND,
            f"{file} cannot be read: {error.strerror}; quarterdeck serve makes it",
        ) from error


def _differing(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    return [
        name
        for name, text in wanted.items()
        if not (folder / name).is_file() or (folder / name).read_text("utf-8") != text
    ]


def _write(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    try:
        return sorted(write_files(folder, wanted))
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror}"
        raise RejectedError(disk_code(error), detail) from error


def _tell(
    kind: Kind, folder: Path, changed: list[str], again_by: datetime, *, wrote: bool
) -> None:
    if not changed:
        out.print(f"{folder} is up to date: nothing has to be taken over.")
        return
    out.print(f"{'Written' if wrote else 'Out of date'} in {folder}:")
    for name in changed:
        out.print(f"  {name}")
    if not wrote:
        out.print("Next: the same without --check, then take it over at the broker.")
        return
    out.print(
        "Beside them belongs the broker's private key, authority/broker.key of the"
        " home:\n  carry it over by a way of its own, owner-only, as broker.key."
    )
    out.print(f"Next: have the broker read it again: {RELOADS[kind]}.")
    out.print(
        "Take it over again at once after a device was enrolled, replaced or revoked,"
        f"\n  and before {again_by:%Y-%m-%d}, when renewed certificates begin to lack"
        " a grant.\n  With --check a script learns whether it is due."
    )
    out.print(
        "A device that was revoked has no permission from that reload on, in live"
        " sessions too."
    )
