"""``quarterdeck device``: invite machines, see how devices are, shut them out."""

from datetime import timedelta
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli import device_enrol
from quarterdeck_controller.cli.device_text import (
    COLUMNS,
    Seen,
    certificates,
    details,
    event,
    row,
    summary,
    text,
)
from quarterdeck_controller.cli.opened import Opened, hint_if_unserved, opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import err, out, print_json, print_table
from quarterdeck_controller.cli.refused import print_refusals, refusals_json
from quarterdeck_controller.fleet.inventory import select
from quarterdeck_controller.identity.admission import LIST_FILE, list_ends
from quarterdeck_controller.identity.revocation import found, revoke
from quarterdeck_controller.store.records import Presence

LIST_SOON = timedelta(days=20)
"""A list of revocations is good for thirty days and made anew daily."""

app = typer.Typer(no_args_is_help=True)
app.command("enrol")(device_enrol.enrol_)
app.command("enrol-many")(device_enrol.enrol_many)
app.command("tokens")(device_enrol.tokens)
app.command("withdraw-token")(device_enrol.withdraw_token)

SelectorOption = Annotated[
    str,
    typer.Option(
        "--selector", "-l", help="all, class=K, tag=T, joined by commas, or ids."
    ),
]


@app.command("list")
def list_(
    selector: SelectorOption = "all",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List devices: identity, presence, what they run, how their last update went."""
    with opened(home, Act.SEE) as fleet:
        now = fleet.clock.now()
        with fleet.store.read() as records:
            devices = Seen.of(records, select(records, selector), now)
        if as_json:
            print_json([summary(it, now) for it in devices])
            return
        if not devices:
            _say_none(selector)
            return
        print_table(COLUMNS, [row(it, now) for it in devices])
        _warn_of_list(fleet)


@app.command()
def show(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one device: its certificates, and why it runs what it runs."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        now = fleet.clock.now()
        it = found(records, device)
        told = details(records, it, now)
        events = records.events.of(device, limit=10)
        report = records.reports.get(device)
        issued = certificates(records.certificates.of(device), now)
        refused = records.refusals.of(device)
    if as_json:
        steps = [event(step) for step in events]
        machine = report.reported.capabilities.model_dump(mode="json") if report else {}
        more = {"certificates": issued, "capabilities": machine, "events": steps}
        print_json({**told, **more, "refusals": refusals_json(refused)})
        return
    for key, value in told.items():
        if key != "v":
            out.print(f"[bold]{key.replace('_', ' '):<17}[/] ", end="")
            out.print(text(value), markup=False)
    if issued:
        out.print()
        columns = ("generation", "serial", "from", "until", "standing")
        print_table(columns, [tuple(one.values()) for one in issued])
    if events:
        out.print()
        print_table(
            ("at", "event", "state", "code", "detail"),
            [
                (
                    f"{it.event.at:%H:%M:%S}",
                    it.event.event,
                    it.event.state,
                    it.event.code,
                    it.event.detail,
                )
                for it in events
            ],
        )
    print_refusals(refused, now)


@app.command("revoke")
def revoke_(
    device: Annotated[str, typer.Argument(help="The device to shut out.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; kept and shown.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Shut a device out: certificates, session, assignment, and what it sends."""
    with opened(home, Act.DEVICE_REVOKE, f"device:{device}") as fleet:
        with fleet.store.write() as records:
            before = revoke(records, device, reason, now=fleet.clock.now())
            presence = records.presence.get(device)
            fleet.audit(f"device:{device}", reason=reason)
        if as_json:
            again = before.revoked_at is not None
            print_json({"v": 1, "device": device, "revoked_before": again})
            return
        if before.revoked_at is not None:
            out.print(f"{device} was revoked at {before.revoked_at:%Y-%m-%d %H:%M} UTC")
        else:
            out.print(f"revoked [bold]{device}[/]; its name can go to new hardware: ")
            out.print(f"quarterdeck device replace {device}", markup=False)
        _say_whose_turn(fleet, presence)


app.command("replace")(device_enrol.replace)


def _say_whose_turn(fleet: Opened, presence: Presence | None) -> None:
    if fleet.home.settings().broker.kind != "external":
        hint_if_unserved(fleet.home)
        return
    session = presence.client if presence is not None and presence.online else ""
    err.print("Your broker is not run by the controller, so do there yourself:")
    err.print(
        "- take its permissions away: quarterdeck broker config writes them anew",
        markup=False,
    )
    err.print(
        f"- if it reads a list of revocations, give it {LIST_FILE} of"
        f" {fleet.home.authority}, which the controller that runs writes in seconds",
        markup=False,
    )
    if session:
        err.print(f"- end the session of client {session}", markup=False)


def _warn_of_list(fleet: Opened) -> None:
    ends = list_ends(fleet.home.authority)
    if ends is not None and ends < fleet.clock.now() + LIST_SOON:
        err.print(
            f"The list of revocations ends at {ends:%Y-%m-%d %H:%M} UTC, and was not"
            " made anew for days. A broker that reads it lets nobody in once it ended."
            " Start the controller: quarterdeck serve"
        )


def _say_none(selector: str) -> None:
    if selector == "all":
        out.print(
            "No devices yet; enrol one with: quarterdeck device enrol ID --class K"
        )
    else:
        out.print(f"No device matches {selector}.", markup=False)
