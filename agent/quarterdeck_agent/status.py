"""What the agent says of itself to whoever stands beside the device."""

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_agent.identity.standing import IdentityStanding
from quarterdeck_agent.lock import holder
from quarterdeck_agent.update.record import Record
from quarterdeck_agent.update.slots import COPY, RECORD
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import ClassName, DeviceId, Sha256
from quarterdeck_shared.refusal import Refusal
from quarterdeck_shared.reported import LastUpdate, Reported, Slot
from quarterdeck_shared.wire import Wire

STATUS = "status.json"
_KEY_PLACES = {"file": "in a file", "tpm": "in the TPM", "elsewhere": "kept elsewhere"}


class Trouble(Wire):
    """Something that stands in the way."""

    code: Code
    detail: str


class Refused(Trouble):
    """Something that was refused.

    Attributes:
        attack: What it looks like; None when it looks like no attack.
        digest: Of the bytes that were refused, when they were one message.
    """

    attack: Attack | None = None
    digest: Sha256 | None = None
    at: AwareDatetime


class Status(Wire):
    """The running agent, as of ``at``.

    Attributes:
        serving: Whether the active model's worker is up.
        identity: Which certificate the device has, and what is wrong with it.
        broker: Why there is no connection; None while connected.
        waiting: What the newest step of the update waits for.
        metadata: Why signed metadata could not be brought up to date.
        refused: What was refused last in this run, and what it looks like.
        refusals: How much was refused in this run, repeats included.
        totals: Requests, errors and labels counted since the start.
        windows_waiting: Windows that the controller has not acknowledged.
        simulated: The agent pretends to run on another kind of CPU.
    """

    v: Literal[1] = 1
    at: AwareDatetime
    pid: int
    device: DeviceId
    device_class: ClassName
    connected: bool
    controller_online: bool
    serving: bool
    worker_pids: tuple[int, ...] = ()
    identity: IdentityStanding = IdentityStanding()
    broker: Trouble | None = None
    waiting: Trouble | None = None
    metadata: Trouble | None = None
    refused: Refused | None = None
    refusals: int = 0
    totals: dict[str, int] = Field(default_factory=dict)
    windows_waiting: int = 0
    windows_lost: int = 0
    reported: Reported


def refusal_told(newest: Refusal | None) -> Refused | None:
    """Return what the status says of the newest refusal."""
    if newest is None:
        return None
    return Refused(
        code=newest.code,
        detail=newest.detail,
        attack=newest.attack,
        digest=newest.refused,
        at=newest.at,
    )


def write_status(state: Path, status: Status) -> None:
    """Replace the status file; it need not survive a power cut.

    Raises:
        OSError: The disk is full or failed.
    """
    beside = state / f".{STATUS}.tmp"
    beside.write_bytes(status.encode())
    beside.replace(state / STATUS)


def read_status(state: Path) -> dict[str, object]:
    """Return what ``quarterdeck-agent status`` shows, running or not."""
    pid = holder(state)
    shown: dict[str, object] = {"running": pid is not None, "pid": pid}
    status = _last(state)
    if status is not None and status.pid == pid:
        return shown | _of_running(status)
    record = _record(state)
    if record is None:
        return shown | {"state": "never ran"}
    return shown | _of_record(record)


def _of_running(status: Status) -> dict[str, object]:
    reported = status.reported
    told = status.model_dump(mode="json", exclude={"reported", "pid", "v"})
    return told | {
        "state": reported.state,
        "step": reported.step,
        "active": _slot(reported.active),
        "previous": _slot(reported.previous),
        "staged": _slot(reported.staged),
        "update": _update(reported.update),
        "quarantine": [q.model_dump(mode="json") for q in reported.quarantine],
        "simulated": reported.capabilities.simulated,
    }


def _of_record(record: Record) -> dict[str, object]:
    return {
        "state": record.state.value,
        "step": record.step,
        "active": _slot(record.active),
        "previous": _slot(record.previous),
        "staged": _slot(record.staged),
        "update": _update(record.update),
        "quarantine": [q.model_dump(mode="json") for q in record.quarantine],
    }


def _slot(slot: Slot | None) -> dict[str, object] | None:
    return None if slot is None else slot.model_dump(mode="json")


def _update(update: LastUpdate | None) -> dict[str, object] | None:
    """Return the last update with its remedy, which a person needs beside the code."""
    if update is None:
        return None
    told = update.model_dump(mode="json")
    return told | ({"remedy": update.code.remedy} if update.code else {})


def _last(state: Path) -> Status | None:
    try:
        return Status.decode((state / STATUS).read_bytes())
    except (OSError, RejectedError):
        return None


def _record(state: Path) -> Record | None:
    for name in (RECORD, COPY):
        try:
            return Record.decode((state / name).read_bytes())
        except (OSError, RejectedError):
            continue
    return None


def render(shown: dict[str, object]) -> str:
    """Return the status as lines for people."""
    lines = [
        f"agent     {_running(shown)}",
        f"identity  {_identity(shown.get('identity'))}",
        f"broker    {_broker(shown)}",
        f"active    {_model(shown.get('active'))}{_serving(shown)}",
        f"previous  {_model(shown.get('previous'))}",
        f"update    {_outcome(shown)}",
    ]
    if shown.get("staged"):
        lines.append(f"staged    {_model(shown['staged'])}")
    for name in ("waiting", "metadata", "refused"):
        trouble = shown.get(name)
        if isinstance(trouble, dict):
            lines.append(f"{name:9} {_explained(trouble)}")
            lines += _suspected(trouble, shown.get("refusals"))
    if isinstance(shown.get("totals"), dict) and shown["totals"]:
        lines.append(f"requests  {_counted(shown['totals'])}")
    lines += [
        f"refuses   {entry['digest'][:12]}: {entry['code']}"
        for entry in _listed(shown.get("quarantine"))
    ]
    return "\n".join(lines)


def _running(shown: dict[str, object]) -> str:
    where = f"runs as process {shown['pid']}" if shown["running"] else "is not running"
    pretends = ", pretends to be another CPU" if shown.get("simulated") else ""
    return f"{shown.get('device', '')} {where}, {shown['state']}{pretends}".strip()


def _broker(shown: dict[str, object]) -> str:
    if not shown["running"]:
        return "not connected"
    if shown.get("connected"):
        there = shown.get("controller_online")
        return "connected" + ("" if there else ", the controller is away")
    trouble = shown.get("broker")
    return _explained(trouble) if isinstance(trouble, dict) else "connecting"


def _identity(told: object) -> str:
    if not isinstance(told, dict):
        return "unknown"
    standing = IdentityStanding.model_validate(told)
    parts = []
    if standing.until and standing.renews:
        parts.append(
            f"certificate {standing.generation} until {standing.until:%Y-%m-%d %H:%M} "
            f"UTC, renewed from {standing.renews:%Y-%m-%d %H:%M} UTC on, "
            f"key {_KEY_PLACES[standing.key or 'file']}"
        )
    if standing.new:
        parts.append("a newer one is being tried")
    if standing.code:
        parts.append(_explained({"code": standing.code, "detail": standing.detail}))
    return "; ".join(parts) or "none yet"


def _model(slot: object) -> str:
    if not isinstance(slot, dict):
        return "none"
    return f"{slot['release']} ({slot['digest'][:12]})"


def _serving(shown: dict[str, object]) -> str:
    if not shown["running"] or not shown.get("active"):
        return ""
    return ", serving" if shown.get("serving") else ", its worker is being started"


def _outcome(shown: dict[str, object]) -> str:
    update = shown.get("update")
    if not isinstance(update, dict):
        return "none yet"
    text = f"{update['outcome']} (assignment {update['sequence']})"
    return f"{text}: {_explained(update)}" if update.get("code") else text


def _counted(totals: object) -> str:
    """Return the counts since the agent's start, as a sentence."""
    counts = Counter(totals if isinstance(totals, dict) else {})
    text = f"{counts['requests']} answered, {counts['errors']} failed"
    if counts["dropped"]:
        text += f", {counts['dropped']} turned away"
    if counts["restarts"]:
        text += f", {counts['restarts']} restarts of the worker"
    if counts["labelled"]:
        share = counts["right"] / counts["labelled"]
        text += (
            f"; {counts['right']} of {counts['labelled']} labelled right ({share:.1%})"
        )
    return text


def _explained(trouble: dict[str, object]) -> str:
    told = Trouble.model_validate({n: trouble[n] for n in ("code", "detail")})
    return f"{told.code}: {told.detail}. {told.code.remedy}"


def _suspected(trouble: dict[str, object], count: object) -> list[str]:
    if "attack" not in trouble:
        return []
    looks = trouble["attack"] or "no attack"
    return [f"          looks like {looks}; {count} refused since the start"]


def _listed(value: object) -> list[dict[str, str]]:
    return value if isinstance(value, list) else []
