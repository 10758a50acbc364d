"""The audit log as a file that can be checked anywhere (pure).

One entry a line, in the very bytes over which its digest is computed; the last line is
the head, so that a file that was cut off is noticed.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from quarterdeck_controller.store.ledger import START, Head, Raw, digest_of
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported log, not examined yet.

    Attributes:
        head: What its last line says.
    """

    rows: tuple[Raw, ...]
    head: Head


def export_lines(rows: Iterable[Raw]) -> Iterator[bytes]:
    """Give the lines of the file for ``rows``, the head last."""
    head = START
    for row in rows:
        # What somebody put into a body must not look like several lines.
        yield (row.body or b"").replace(b"\n", b" ") + b"\n"
        head = Head(row.number, (row.digest or b"").decode("ascii", "replace"))
    yield json.dumps({"head": as_json(head)}).encode() + b"\n"


def read_export(data: bytes, where: str) -> Exported:
    """Return the log in ``data``.

    Raises:
        RejectedError: ``AUDIT_BROKEN`` when it does not end with its head.
    """
    *lines, last = data.splitlines() or [b""]
    head = head_in(_parsed(last))
    if head is None:
        raise RejectedError(
            Code.AUDIT_BROKEN,
            f"{where} does not end with the head of a log: it was cut off, or is none",
        )
    rows: list[Raw] = []
    for line in lines:
        rows.append(_row(line, rows[-1].number + 1 if rows else 1))
    return Exported(tuple(rows), head)


def as_json(head: Head) -> dict[str, object]:
    """Return ``head`` as it is written."""
    return {"number": head.number, "sha256": head.sha256}


def head_in(value: object) -> Head | None:
    """Return the head that a JSON value tells, if it tells one."""
    match value:
        case {"head": {"number": int(number), "sha256": str(sha256)}}:
            return Head(number, sha256)
        case _:
            return None


def _row(line: bytes, following: int) -> Raw:
    """Return the entry that ``line`` holds; what it does not say is nothing."""
    told = _parsed(line)
    fields = told if isinstance(told, dict) else {}
    number = fields.get("number")
    return Raw(
        number=number if isinstance(number, int) else following,
        at=_microseconds(fields.get("at")),
        actor=_bytes(fields.get("actor")),
        act=_bytes(fields.get("act")),
        subject=_bytes(fields.get("subject")),
        outcome=_bytes(fields.get("outcome")),
        body=line,
        digest=digest_of(line).encode(),
    )


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _microseconds(at: object) -> bytes | None:
    try:
        moment = datetime.fromisoformat(str(at))
        return str((moment - _EPOCH) // timedelta(microseconds=1)).encode()
    except (ValueError, TypeError):
        return None


def _bytes(value: object) -> bytes:
    return str(value).encode("utf-8", "backslashreplace")
