"""Many devices at once, from a list: for a factory line.

The list is CSV: ``id[,class[,tags]]``, tags separated by blanks or semicolons; a first
line that begins with ``id`` is its heading. Every line is judged before anything is
done, and all that is wrong is told with its line number.

What is written for the line: ``tokens.csv`` with a token for each device, one claim
certificate for all, what devices trust, and for each class the agent's settings, in
which ``DEVICE-ID`` stands for the device.
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from quarterdeck_controller.fleet.inventory import check_tags
from quarterdeck_controller.home import Settings
from quarterdeck_controller.identity.authority import check_device_name
from quarterdeck_controller.identity.enrol import (
    CERTIFICATE_AUTHORITY,
    CLAIM,
    ROOT,
    AgentOptions,
    agent_toml,
    write_folder,
)
from quarterdeck_controller.identity.tokens import Invitation
from quarterdeck_controller.store.records import Device
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_DEVICES = 100_000
MAX_LIST_BYTES = 16 << 20
TOKENS = "tokens.csv"
PLACEHOLDER = "DEVICE-ID"
_FIELDS = 3
_TOLD = 20
_OPTIONS = AgentOptions(
    source=None, interval_s=0.1, repeat=True, simulate_isa=(), telemetry_period_s=60
)


@dataclass(frozen=True, slots=True)
class Line:
    """A device of the list."""

    number: int
    device: str
    device_class: str
    tags: tuple[str, ...]


def read_list(
    data: bytes,
    device_class: str | None,
    *,
    classes: Collection[str],
    known: Collection[str],
) -> tuple[Line, ...]:
    """Return the devices that a list names.

    Args:
        data: The bytes of the list.
        device_class: The class of lines that name none.
        classes: The classes that there are.
        known: The ids that are taken.

    Raises:
        RejectedError: ``LIST_INVALID``, with the lines that are wrong, the first twenty
            of them.
    """
    if len(data) > MAX_LIST_BYTES:
        raise _invalid([f"{len(data)} bytes, at most {MAX_LIST_BYTES} allowed"])
    try:
        text = data.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""))
        rows = [(reader.line_num, it) for it in reader if any(map(str.strip, it))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _invalid([f"it is not CSV in UTF-8: {error}"]) from error
    if rows and rows[0][1][0].strip().lower() == "id":
        rows = rows[1:]
    if not 0 < len(rows) <= MAX_DEVICES:
        raise _invalid([f"{len(rows)} devices, 1 to {MAX_DEVICES} allowed"])
    return _checked([_line(*row, device_class) for row in rows], classes, known)


def _line(number: int, row: Sequence[str], device_class: str | None) -> Line | str:
    cells = [cell.strip() for cell in row]
    if len(cells) > _FIELDS:
        return f"line {number}: {len(cells)} fields, at most {_FIELDS}: id, class, tags"
    device, named, tags = [*cells, "", ""][:_FIELDS]
    chosen = named or device_class
    if chosen is None:
        return f"line {number}: {device!r} has no class; add it, or give --class"
    unique = tuple(dict.fromkeys(tags.replace(";", " ").split()))
    return Line(number, device, chosen, unique)


def _checked(
    lines: Sequence[Line | str], classes: Collection[str], known: Collection[str]
) -> tuple[Line, ...]:
    seen: dict[str, int] = {}
    good, wrong = [], []
    for it in lines:
        fault = it if isinstance(it, str) else _fault(it, classes, known, seen)
        if isinstance(it, Line) and fault is None:
            seen[it.device] = it.number
            good.append(it)
        elif fault is not None:
            wrong.append(fault)
    if wrong:
        raise _invalid(wrong)
    return tuple(good)


def _fault(
    line: Line,
    classes: Collection[str],
    known: Collection[str],
    seen: Mapping[str, int],
) -> str | None:
    where = f"line {line.number}"
    try:
        check_device_name(line.device)
        check_tags(line.tags)
    except RejectedError as error:
        return f"{where}: {error.detail}: {error.code.remedy}"
    if line.device_class not in classes:
        there = ", ".join(classes)
        return f"{where}: no class {line.device_class!r}; there are {there}"
    if line.device in seen:
        return f"{where}: {line.device} is on line {seen[line.device]} already"
    if line.device in known:
        return f"{where}: there is a device {line.device} already"
    return None


def _invalid(wrong: Sequence[str]) -> RejectedError:
    told = "; ".join(wrong[:_TOLD])
    more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
    return RejectedError(Code.LIST_INVALID, told + more)


def entered(lines: Sequence[Line], now: datetime) -> tuple[Device, ...]:
    """Return the devices of ``lines`` as they are entered."""
    return tuple(Device(it.device, it.device_class, it.tags, now) for it in lines)


def write_factory_folder(
    out: Path,
    invitations: Sequence[Invitation],
    settings: Settings,
    *,
    authority: bytes,
    root: bytes,
) -> None:
    """Write what a factory line needs to ``out``, all of it or nothing.

    Raises:
        RejectedError: ``DISK_FULL`` or ``DISK_FAILED``.
    """
    classes = dict.fromkeys(it.device_class for it in invitations)
    files = {CERTIFICATE_AUTHORITY: authority, ROOT: root} | {
        f"agent-{name}.toml": agent_toml(PLACEHOLDER, name, settings, _OPTIONS).encode()
        for name in classes
    }
    secret = {TOKENS: tokens_csv(invitations), CLAIM: invitations[0].claim_pem}
    write_folder(out, files, secret)


def tokens_csv(invitations: Sequence[Invitation]) -> bytes:
    """Return the tokens, a line a device; a secret."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "class", "token", "expires"))
    for it in invitations:
        until = it.expires.isoformat(timespec="seconds")
        writer.writerow((it.device, it.device_class, it.token, until))
    return text.getvalue().encode()
