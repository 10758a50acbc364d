"""``quarterdeck explain``: why a device runs what it runs, checked link by link."""

from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.chain_text import links_json, print_links
from quarterdeck_controller.cli.opened import opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import EXIT_REFUSED, out, print_json
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.release.explain import explain, read_known
from quarterdeck_controller.repository.repository import Repository


def command(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show the chain from what a device runs to the root of trust, verified now.

    Exit code 0 when every link holds, 3 when one does not.
    """
    with opened(home, Act.SEE) as fleet:
        with fleet.store.read() as records:
            known = read_known(records, device)
        chain = Repository(fleet.home, fleet.clock).chain()
        explained = explain(known, Catalog(fleet.home), chain, fleet.clock.now())
    if as_json:
        print_json(
            {
                "device": device,
                "class": known.device.device_class,
                "verified": explained.verified,
                "links": links_json(explained.links),
            }
        )
    else:
        out.print(f"[bold]{device}[/], of class {known.device.device_class}")
        print_links(explained.links)
    if not explained.verified:
        raise typer.Exit(EXIT_REFUSED)
