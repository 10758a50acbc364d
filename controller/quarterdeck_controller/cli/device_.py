"""``quarterdeck device``: enrol devices and see how they are."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import Opened, ago, opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json, print_table
from quarterdeck_controller.cli.refused import print_refusals, refusals_json
from quarterdeck_controller.fleet.enrol import write_bundle
from quarterdeck_controller.fleet.inventory import enrol, known, select
from quarterdeck_controller.fleet.presence import duplicate
from quarterdeck_controller.store.records import (
    Assigned,
    Decision,
    Device,
    DeviceEvent,
    Presence,
    Standing,
)
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

SelectorOption = Annotated[
    str,
    typer.Option(
        "--selector", "-l", help="all, class=K, tag=T, joined by commas, or ids."
    ),
]


@app.command("enrol")
def enrol_(
    device: Annotated[str, typer.Argument(help="The new device's id.")],
    *,
    device_class: Annotated[str, typer.Option("--class", help="Its device class.")],
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag; may be repeated.")
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Where its bundle goes; by default ./<id>."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(help="The folder of samples that its agent runs on."),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="A new certificate and bundle for a device there is."
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Make the bundle a new device starts from, and record the device."""
    folder = (out_dir or Path(device)).absolute()
    with opened(home, Act.DEVICE_ENROL) as fleet:
        _check_class(fleet, device_class)
        # The record is committed after the bundle is complete: a failure to write
        # one leaves no device that nobody can start.
        with fleet.store.write() as records:
            enrolled = (
                known(records, device, device_class)
                if again
                else enrol(
                    records, device, device_class, tags=tag or (), now=fleet.clock.now()
                )
            )
            write_bundle(
                fleet.home, device, device_class, folder, fleet.clock, source=source
            )
    if as_json:
        print_json({"v": 1, **_identity(enrolled), "bundle": str(folder)})
        return
    out.print(f"enrolled [bold]{device}[/] as {device_class}; its bundle: ", end="")
    out.print(str(folder), markup=False)
    out.print(
        f"start it with: quarterdeck-agent run --config {folder / 'agent.toml'}",
        markup=False,
    )


@app.command("list")
def list_(
    selector: SelectorOption = "all",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List devices: presence, what they run, how their last update went."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        now = fleet.clock.now()
        devices = select(records, selector)
        presence, standings = records.presence.all(), records.reports.standings()
    if as_json:
        print_json(
            [
                _summary(it, presence.get(it.id), standings.get(it.id), now)
                for it in devices
            ]
        )
        return
    if not devices:
        _say_none(selector)
        return
    print_table(
        ("device", "class", "tags", "presence", "release", "last update", "seen"),
        [_row(it, presence.get(it.id), standings.get(it.id), now) for it in devices],
    )


@app.command()
def show(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one device, and why it runs what it runs."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        now = fleet.clock.now()
        it = records.devices.get(device)
        if it is None:
            raise RejectedError(Code.NOT_FOUND, f"no device {device}")
        details = _details(records, it, now)
        events = records.events.of(device, limit=10)
        report = records.reports.get(device)
        refused = records.refusals.of(device)
    if as_json:
        told = [_event(event) for event in events]
        machine = report.reported.capabilities.model_dump(mode="json") if report else {}
        refusals = refusals_json(refused)
        print_json(
            {**details, "capabilities": machine, "events": told, "refusals": refusals}
        )
        return
    for key, value in details.items():
        if key != "v":
            out.print(f"[bold]{key.replace('_', ' '):<16}[/] ", end="")
            out.print(_text(value), markup=False)
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


def _check_class(fleet: Opened, device_class: str) -> None:
    classes = fleet.home.settings().classes
    if device_class not in classes:
        raise RejectedError(
            Code.PROFILE_INVALID,
            f"this fleet has no class {device_class!r}; it has {', '.join(classes)}",
        )


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)


def _say_none(selector: str) -> None:
    if selector == "all":
        out.print(
            "No devices yet; enrol one with: quarterdeck device enrol ID --class K"
        )
    else:
        out.print(f"No device matches {selector}.", markup=False)


def _identity(device: Device) -> dict[str, object]:
    return {
        "device": device.id,
        "class": device.device_class,
        "tags": list(device.tags),
        "enrolled": device.enrolled_at.isoformat(timespec="seconds"),
    }


def _presence(presence: Presence | None, now: datetime) -> str:
    if presence is None:
        return "never seen"
    if duplicate(presence, now):
        return "duplicate"
    return "online" if presence.online else "offline"


def _update(standing: Standing | None) -> str:
    if standing is None or standing.outcome is None:
        return ""
    return f"{standing.outcome}{f' ({standing.code})' if standing.code else ''}"


def _row(
    device: Device,
    presence: Presence | None,
    standing: Standing | None,
    now: datetime,
) -> tuple[object, ...]:
    return (
        device.id,
        device.device_class,
        ",".join(device.tags),
        _presence(presence, now),
        standing.active_release if standing else "",
        _update(standing),
        ago(presence.last_seen if presence else None, now),
    )


def _summary(
    device: Device,
    presence: Presence | None,
    standing: Standing | None,
    now: datetime,
) -> dict[str, object]:
    return {
        "v": 1,
        **_identity(device),
        "presence": _presence(presence, now).replace(" ", "_"),
        "seen": presence.last_seen.isoformat(timespec="seconds") if presence else None,
        "release": standing.active_release if standing else None,
        "artifact": standing.active_digest if standing else None,
        "outcome": standing.outcome if standing else None,
        "code": standing.code if standing else None,
        "detail": standing.detail if standing else "",
    }


def _details(records: Records, device: Device, now: datetime) -> dict[str, object]:
    presence = records.presence.get(device.id)
    standing = records.reports.standings().get(device.id)
    report = records.reports.get(device.id)
    assigned = records.assignments.get(device.id)
    summary = _summary(device, presence, standing, now)
    reported = report.reported if report else None
    return {
        **summary,
        "state": reported.state if reported else None,
        "previous": reported.previous.release
        if reported and reported.previous
        else None,
        "quarantine": [f"{it.digest[:16]} ({it.code})" for it in reported.quarantine]
        if reported
        else [],
        "agent": reported.agent if reported else None,
        "isa": ", ".join(reported.capabilities.isa) if reported else None,
        "simulated": reported.capabilities.simulated if reported else None,
        **_why(records, assigned),
    }


def _why(records: Records, assigned: Assigned | None) -> dict[str, object]:
    if assigned is None or assigned.withdrawn:
        return {"assigned": None, "why": "nothing is assigned to it"}
    verdict: Decision | None = None
    if assigned.rollout is not None:
        verdict = next(iter(reversed(records.decisions.of(assigned.rollout))), None)
    said = f"; {verdict.what}: {verdict.reason}" if verdict else ""
    return {
        "assigned": assigned.runs.release,
        "sequence": assigned.sequence,
        "issued": assigned.issued.isoformat(timespec="seconds"),
        "expires": assigned.expires.isoformat(timespec="seconds"),
        "delivered": "to the broker" if assigned.published else "not yet",
        "why": f"{assigned.reason}{said}",
    }


def _event(it: DeviceEvent) -> dict[str, object]:
    return it.event.model_dump(mode="json")
