"""The audit log's head, signed with every timestamp.

The timestamp role carries it as a field of its own, so that every device and every
backup that keeps a timestamp can bear witness to the log as it was. A head is not
replaced while the log contradicts it: a log that was cut off would otherwise be
vouched for by the next timestamp.
"""

import logging
import re
from collections.abc import Iterable
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Timestamp

from quarterdeck_controller.access.verify import Witness
from quarterdeck_controller.home import Home
from quarterdeck_controller.repository.chain import MAX_ROOTS, quorum
from quarterdeck_controller.repository.roles import TIMESTAMP
from quarterdeck_controller.store.ledger import Head
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from quarterdeck_shared.ids import SHA256_PATTERN

AUDIT_FIELD = "x-audit"
"""Signed field of the timestamp role: number and digest of the log's newest entry."""

MAX_TIMESTAMP_BYTES = 16 * 1024

log = logging.getLogger(__name__)


def anchored(timestamp: Timestamp, home: Home) -> Timestamp:
    """Return ``timestamp`` with the head of the home's audit log.

    Whatever is wrong with the log, the timestamp must be signed: devices would take
    the fleet for frozen. It then goes on carrying the head that it carried before.
    """
    if not home.database.is_file():
        return timestamp
    try:
        head = _head(home, carried(timestamp))
    except QuarterdeckError as error:
        log.warning("event=audit_not_anchored code=%s: %s", error.code, error.detail)
    else:
        if head.number:
            field = {"number": head.number, "sha256": head.sha256}
            timestamp.unrecognized_fields[AUDIT_FIELD] = field
    return timestamp


def carried(timestamp: Timestamp) -> Head | None:
    """Return the head that ``timestamp`` carries, if any."""
    match timestamp.unrecognized_fields.get(AUDIT_FIELD):
        case {"number": int(number), "sha256": str(sha256)}:
            sound = number > 0 and re.match(SHA256_PATTERN, sha256)
            return Head(number, sha256) if sound else None
        case _:
            return None


def witness(data: bytes, roots: Iterable[bytes], where: str) -> Witness:
    """Return the head that a signed timestamp of this fleet carries.

    One that has expired, or was signed with a key that was replaced since, bears
    witness all the same: its signature is checked with every root there was.

    Raises:
        RejectedError: ``MALFORMED``, ``SIGNATURE_INVALID``, or ``NOT_FOUND`` when it
            carries none.
    """
    metadata = _timestamp(data, where)
    if not any(_is_signed(metadata, root) for root in roots):
        raise RejectedError(
            Code.SIGNATURE_INVALID, f"{where} is not signed by this fleet's timestamp"
        )
    head = carried(metadata.signed)
    if head is None:
        raise RejectedError(Code.NOT_FOUND, f"{where} carries no head of an audit log")
    return Witness(f"{where} (version {metadata.signed.version})", head)


def roots(home: Home) -> tuple[bytes, ...]:
    """Return every root that the home has, the newest first."""
    found = []
    for version in range(1, MAX_ROOTS):
        file = home.repository / f"{version}.root.json"
        if file.is_file():
            found.append(file.read_bytes())
        elif found:
            break
    return tuple(reversed(found))


def _head(home: Home, before: Head | None) -> Head:
    with Store.look(home.database) as store, store.read() as records:
        head = records.audit.head()
        if before is None or not records.audit.departs_from(before):
            return head
        kept = records.audit.digest(before.number)
    raise RejectedError(
        Code.AUDIT_BROKEN,
        f"the log's entry {before.number} has digest {str(kept)[:16]}, signed was"
        f" {before.sha256[:16]}: see quarterdeck audit verify",
    )


def _timestamp(data: bytes, where: str) -> Metadata[Timestamp]:
    if len(data) > MAX_TIMESTAMP_BYTES:
        raise RejectedError(Code.TOO_LARGE, f"{where} has {len(data)} bytes")
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        raise RejectedError(Code.MALFORMED, f"{where}: {error}") from error
    if not isinstance(metadata.signed, Timestamp):
        raise RejectedError(Code.MALFORMED, f"{where} is no timestamp")
    return metadata


def _is_signed(metadata: Metadata[Timestamp], root: bytes) -> bool:
    try:
        trusted: Metadata[Any] = Metadata.from_bytes(root)
        return quorum(TIMESTAMP, trusted.signed).is_met(metadata)
    except (RepositoryError, ValueError, KeyError, TypeError, AttributeError):
        return False
