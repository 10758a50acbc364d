"""Which keys there are and what expires when (pure but for the certificates read)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.keyfile import KeyFile, key_name
from quarterdeck_controller.repository.roles import ONLINE, lifetime

HERE, ELSEWHERE = "here", "elsewhere"
_CERTIFICATES = ("root", "issuing", "controller", "broker")


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key, the role it signs for, and where it is.

    Attributes:
        role: None for a key here that signs nothing.
    """

    role: str | None
    name: str
    keyid: str
    where: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """Something that expires.

    Attributes:
        renews: When it is to be renewed.
        by_itself: Whether the controller does that, its keys being here.
        asked: The id of the request that is open to renew it.
    """

    what: str
    signed_by: str
    version: int | None
    expires: datetime
    renews: datetime
    where: str
    by_itself: bool
    asked: str | None = None

    def left(self, now: datetime) -> timedelta:
        """Return how long it is still valid; negative when it has expired."""
        return self.expires - now

    def warning(self, now: datetime) -> str:
        """Return what to do about it now, empty when nothing."""
        if self.asked is not None:
            return f"sign the request {self.asked}"
        if now >= self.expires:
            return "EXPIRED: devices refuse what stands on it"
        if now < self.renews:
            return ""
        if self.by_itself:
            return "renewed while quarterdeck serve runs"
        return "renew it: quarterdeck serve asks for the signatures"


def key_rows(chain: Chain, here: Mapping[str, KeyFile]) -> tuple[KeyRow, ...]:
    """Return every key in force by role, then those ``here`` that sign nothing."""
    rows, used = [], set()
    for role in chain.signed():
        for keyid, key in chain.quorum(role).keys.items():
            file = here.get(keyid)
            where = str(file.path) if file else ELSEWHERE
            rows.append(KeyRow(role, key_name(key), keyid, where))
            used.add(keyid)
    unused = (
        KeyRow(None, file.name, keyid, str(file.path))
        for keyid, file in here.items()
        if keyid not in used
    )
    return (*rows, *unused)


def deadlines(
    chain: Chain, here: Mapping[str, KeyFile], asked: Mapping[str, str]
) -> tuple[Deadline, ...]:
    """Return when each role's metadata expires, the soonest first.

    ``asked``: ids of open requests by role.
    """
    found = []
    for role, signed in chain.signed().items():
        keys = chain.quorum(role)
        at_hand = sum(keyid in here for keyid in keys.keys)
        by_itself = at_hand >= keys.threshold
        found.append(
            Deadline(
                what=role,
                signed_by=f"{keys.threshold} of {len(keys.keys)}",
                version=signed.version,
                expires=signed.expires,
                renews=signed.expires - lifetime(role) / 2,
                where=HERE if by_itself or role in ONLINE else ELSEWHERE,
                by_itself=by_itself,
                asked=asked.get(role),
            )
        )
    return tuple(sorted(found, key=lambda it: it.expires))


def certificates(authority: Path) -> Iterator[Deadline]:
    """Yield when the authority's certificates expire; one that cannot be read, not."""
    for name in _CERTIFICATES:
        try:
            data = (authority / f"{name}.pem").read_bytes()
            found = x509.load_pem_x509_certificates(data)[0]
        except (OSError, ValueError):
            continue
        start, end = found.not_valid_before_utc, found.not_valid_after_utc
        yield Deadline(
            what=f"certificate of {'the authority' if name == 'root' else name}",
            signed_by="",
            version=None,
            expires=end,
            renews=start + (end - start) * 2 / 3,
            where=HERE,
            by_itself=name in ("controller", "broker"),
        )


def soonest(found: Sequence[Deadline]) -> tuple[Deadline, ...]:
    """Return ``found`` with what expires first in front."""
    return tuple(sorted(found, key=lambda it: it.expires))
