"""What the commands on devices say of one: as a row, as a summary, in full."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from quarterdeck_controller.cli.opened import ago
from quarterdeck_controller.fleet.presence import duplicate
from quarterdeck_controller.identity.issuing import is_open
from quarterdeck_controller.store.records import (
    Assigned,
    Certificate,
    Decision,
    Device,
    DeviceEvent,
    Presence,
    Standing,
    Token,
)
from quarterdeck_controller.store.store import Records

COLUMNS = (
    "device",
    "class",
    "tags",
    "identity",
    "presence",
    "release",
    "last update",
    "seen",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one device, for a list of many."""

    device: Device
    presence: Presence | None
    standing: Standing | None
    certificate: Certificate | None
    token: Token | None

    @classmethod
    def of(
        cls, records: Records, devices: Sequence[Device], now: datetime
    ) -> "tuple[Seen, ...]":
        """Return what is known of each of ``devices``."""
        presence, standings = records.presence.all(), records.reports.standings()
        certificates = records.certificates.newest()
        tokens = {it.device: it for it in records.tokens.open(now)}
        return tuple(
            cls(
                it,
                presence.get(it.id),
                standings.get(it.id),
                certificates.get(it.id),
                tokens.get(it.id),
            )
            for it in devices
        )


def identity(seen: Seen, now: datetime) -> str:
    """Return in a word or two whether the device can prove who it is."""
    if seen.device.revoked_at is not None:
        return "revoked"
    it = seen.certificate
    if it is not None and is_open(it, now):
        return f"{_left(it.not_after - now)} left"
    if seen.token is not None:
        return "waits for enrolment"
    if it is not None and it.revoked_at is None:
        return "expired"
    return "not invited"


def row(seen: Seen, now: datetime) -> tuple[object, ...]:
    """Return the device as a row under ``COLUMNS``."""
    device, standing = seen.device, seen.standing
    return (
        device.id,
        device.device_class,
        ",".join(device.tags),
        identity(seen, now),
        said_presence(seen.presence, now),
        standing.active_release if standing else "",
        _update(standing),
        ago(seen.presence.last_seen if seen.presence else None, now),
    )


def summary(seen: Seen, now: datetime) -> dict[str, object]:
    """Return the device as one JSON value."""
    device, presence, standing = seen.device, seen.presence, seen.standing
    certificate, token = seen.certificate, seen.token
    return {
        "v": 1,
        **named(device),
        "identity": identity(seen, now),
        "certificate_until": _moment(certificate.not_after if certificate else None),
        "invited_until": _moment(token.expires_at if token else None),
        "revoked": _moment(device.revoked_at),
        "revoked_why": device.revoked_why,
        "presence": said_presence(presence, now).replace(" ", "_"),
        "seen": _moment(presence.last_seen if presence else None),
        "release": standing.active_release if standing else None,
        "artifact": standing.active_digest if standing else None,
        "outcome": standing.outcome if standing else None,
        "code": standing.code if standing else None,
        "detail": standing.detail if standing else "",
    }


def details(records: Records, device: Device, now: datetime) -> dict[str, object]:
    """Return everything that is known of one device, and why it runs what it runs."""
    (seen,) = Seen.of(records, [device], now)
    report = records.reports.get(device.id)
    reported = report.reported if report else None
    previous = reported.previous if reported else None
    return {
        **summary(seen, now),
        "state": reported.state if reported else None,
        "previous": previous.release if previous else None,
        "quarantine": [f"{it.digest[:16]} ({it.code})" for it in reported.quarantine]
        if reported
        else [],
        "agent": reported.agent if reported else None,
        "isa": ", ".join(reported.capabilities.isa) if reported else None,
        "simulated": reported.capabilities.simulated if reported else None,
        **_why(records, records.assignments.get(device.id)),
    }


def certificates(them: Sequence[Certificate], now: datetime) -> list[dict[str, object]]:
    """Return the certificates of a device as JSON values, newest first."""
    return [
        {
            "generation": it.generation,
            "serial": it.serial,
            "from": _moment(it.not_before),
            "until": _moment(it.not_after),
            "standing": _standing(it, now),
        }
        for it in them
    ]


def named(device: Device) -> dict[str, object]:
    """Return who the device is."""
    return {
        "device": device.id,
        "class": device.device_class,
        "tags": list(device.tags),
        "enrolled": device.enrolled_at.isoformat(timespec="seconds"),
    }


def said_presence(presence: Presence | None, now: datetime) -> str:
    """Return in a word whether the device is there."""
    if presence is None:
        return "never seen"
    if duplicate(presence, now):
        return "duplicate"
    return "online" if presence.online else "offline"


def event(it: DeviceEvent) -> dict[str, object]:
    """Return a step that a device told about as a JSON value."""
    return it.event.model_dump(mode="json")


def text(value: object) -> str:
    """Return ``value`` for people."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)


def _standing(it: Certificate, now: datetime) -> str:
    if it.revoked_at is not None:
        return f"revoked: {it.revoked_why}"
    if it.not_after <= now:
        return "expired"
    if it.retired_at is not None:
        return "retired"
    return "in use" if it.used_at is not None else "not seen yet"


def _left(span: timedelta) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if span.total_seconds() >= size:
            return f"{span.total_seconds() // size:.0f} {unit}"
    return f"{span.total_seconds():.0f} s"


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _update(standing: Standing | None) -> str:
    if standing is None or standing.outcome is None:
        return ""
    return f"{standing.outcome}{f' ({standing.code})' if standing.code else ''}"


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
