"""The command that has a new issuing authority take over."""

from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.services import ensure_services
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError

MAX_KEY_BYTES = 16 * 1024


def authority_renew(
    root_key: Annotated[
        Path | None,
        typer.Option(
            "--root-key",
            help="The authority's root key, on the medium where it is kept; by default"
            " authority/root.key of the home.",
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Have the authority's root sign a new issuing key for this controller.

    Needed every few years; the controller warns for a year before. The root's key is
    read once and not kept. Devices notice nothing: what was issued before stays valid.
    """
    with opened(home, Act.KEY_CHANGE, "key:issuing") as fleet:
        folder = fleet.home.authority
        key = _read(root_key or folder / "root.key")
        try:
            authority = Authority.open(folder, fleet.clock).succeed(key)
            issued = ensure_services(fleet.home, fleet.home.settings(), fleet.clock)
        except OSError as error:
            raise RejectedError(
                disk_code(error), f"{folder} cannot be written: {error.strerror}"
            ) from error
        ends = authority.expires.isoformat(timespec="seconds")
        fleet.audit("key:issuing", ends=ends)
    if as_json:
        print_json({"v": 1, "ends": ends, "issued": list(issued)})
        return
    out.print(f"a new issuing authority took over; it ends at {ends}")
    out.print("now start the controller anew, so that it issues with the new key")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened_file:
            return opened_file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise RejectedError(
            Code.KEY_UNUSABLE,
            f"{file}: {error.strerror}; bring the medium with the authority's root key"
            " and name the file with --root-key",
        ) from error
