"""The form of the audit log: entries, each naming the one before it (pure).

An entry is kept as canonical JSON: keys sorted, no blanks, ASCII. Its digest is the
sha256 of those bytes, and every entry holds the digest of the one before, so that
whoever knows the digest of one entry can tell whether any before it was changed. The
first names sixty-four zeros. Numbers begin at 1 and have no gaps.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

VERSION = 1
GENESIS = "0" * 64
"""What the first entry names as the digest of the one before it."""

MAX_SUBJECT = 200
MAX_DETAIL_BYTES = 8 * 1024
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_MAX_TEXT, _MAX_ITEMS, _MAX_DEPTH = 500, 100, 6


class Outcome(StrEnum):
    """How an act went."""

    BEGUN = "begun"  # its effect is outside the database; the end follows
    DONE = "done"
    FAILED = "failed"  # who asked might, but it did not work
    REFUSED = "refused"  # who asked might not


@dataclass(frozen=True, slots=True)
class By:
    """Who acts, within one transaction.

    Attributes:
        actor: An operator's name, ``os:<user>`` for a person of whom the machine alone
            knows who it is, or ``controller``.
        role: The operator's role; empty for the controller.
        act: What the operator asked for; empty for the controller, which decides.
    """

    actor: str
    role: str = ""
    act: str = ""


CONTROLLER = By("controller")


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done, as told to the log, which adds who, its number and the chain.

    Attributes:
        act: ``<noun>.<verb>``, such as ``device.enrol``.
        subject: ``<noun>:<id>`` of what it was done to, such as ``device:till-1``.
        detail: Numbers and words that led to it or tell of it. No secrets. What is
            too long or no JSON is cut or written as text, never refused.
    """

    at: datetime
    act: str
    subject: str = ""
    outcome: Outcome = Outcome.DONE
    detail: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry: who knows it can tell whether the log up to it was changed."""

    number: int
    sha256: str

    @property
    def subject(self) -> str:
        """What an entry about this head is about."""
        return f"head:{self.number}"


START = Head(0, GENESIS)
"""The head of an empty log."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry as it is kept: columns to search by, its bytes, and their digest."""

    number: int
    at: datetime
    actor: str
    act: str
    subject: str
    outcome: str
    body: str
    digest: str

    @property
    def head(self) -> Head:
        """What the log's head was when this entry was the newest."""
        return Head(self.number, self.digest)

    @property
    def fields(self) -> dict[str, object]:
        """Everything that the entry says, with its digest."""
        told: dict[str, object] = json.loads(self.body)
        return told | {"digest": self.digest}


@dataclass(frozen=True, slots=True)
class Raw:
    """An entry as it is found, whatever somebody has made of it: bytes, or nothing.

    Attributes:
        types: Types of the columns as the database names them, from ``at`` on.
    """

    TYPES: ClassVar[str] = "integer text text text text text text"

    number: int
    at: bytes | None
    actor: bytes | None
    act: bytes | None
    subject: bytes | None
    outcome: bytes | None
    body: bytes | None
    digest: bytes | None
    types: str = TYPES

    def column(self, name: str) -> bytes | None:
        """Return the bytes of one column."""
        value: bytes | int | None = getattr(self, name)
        return str(value).encode() if isinstance(value, int) else value


def seal(entry: Entry, by: By, before: Head) -> Kept:
    """Return ``entry`` as it follows ``before``."""
    at = entry.at.astimezone(UTC)
    actor, subject = clean(by.actor), clean(entry.subject, MAX_SUBJECT)
    body = canonical(
        {
            "v": VERSION,
            "number": before.number + 1,
            "at": at.isoformat(timespec="microseconds"),
            "actor": actor,
            "role": by.role,
            "act": entry.act,
            "subject": subject,
            "outcome": str(entry.outcome),
            "detail": bounded(entry.detail),
            "previous": before.sha256,
        }
    )
    return Kept(
        number=before.number + 1,
        at=at,
        actor=actor,
        act=entry.act,
        subject=subject,
        outcome=str(entry.outcome),
        body=body,
        digest=digest_of(body.encode()),
    )


def canonical(value: Mapping[str, object]) -> str:
    """Return the one way in which ``value`` is written."""
    return _ENCODER.encode(value)


def digest_of(body: bytes) -> str:
    """Return the sha256 of an entry's bytes."""
    return hashlib.sha256(body).hexdigest()


def bounded(detail: Mapping[str, object]) -> dict[str, object]:
    """Return ``detail`` as JSON of a bounded size; nothing makes it fail.

    An entry that cannot be written would stop the act that it tells of.
    """
    told = {clean(str(key), 100): _bounded(it, 1) for key, it in detail.items()}
    size = len(canonical(told))
    return told if size <= MAX_DETAIL_BYTES else {"cut_bytes": size}


def clean(text: str, limit: int = _MAX_TEXT) -> str:
    """Return ``text`` with at most ``limit`` characters, all of which can be stored."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _bounded(value: object, depth: int) -> object:
    told: object = clean(str(value))
    match value:
        case None | bool():
            told = value
        case int() if abs(value) < 1 << 63:
            told = int(value)
        case float() if math.isfinite(value):
            told = float(value)
        case str() | bytes():
            pass
        case Mapping() if depth < _MAX_DEPTH:
            pairs = list(value.items())[:_MAX_ITEMS]
            told = {clean(str(key), 100): _bounded(it, depth + 1) for key, it in pairs}
        case Sequence() if depth < _MAX_DEPTH:
            told = [_bounded(it, depth + 1) for it in value[:_MAX_ITEMS]]
    return told
