"""Who may become a device, and with what devices prove who they are, as rows.

Whatever changes who may use the broker raises the revision, so that a process that
keeps a broker can see at little cost that another one has changed something.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    func,
    select,
    true,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from quarterdeck_controller.store.records import Certificate, Claim, Token
from quarterdeck_controller.store.schema import (
    certificates,
    claims,
    devices,
    presence,
    revisions,
    tokens,
)

_SUBJECT = "identity"


@dataclass(frozen=True, slots=True)
class Live:
    """A certificate that admits a device."""

    device: str
    device_class: str
    generation: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session that goes on although it should not."""

    device: str
    client: str


@dataclass(frozen=True, slots=True)
class ClaimTable:
    """Claim certificates."""

    connection: Connection

    def add(self, claim: Claim) -> None:
        """Record ``claim``."""
        self.connection.execute(insert(claims).values(asdict(claim)))
        changed(self.connection)

    def get(self, name: str) -> Claim | None:
        """Return the claim of that name."""
        row = self.connection.execute(
            select(claims).where(claims.c.name == name)
        ).one_or_none()
        return None if row is None else Claim(**row._asdict())

    def live(self, now: datetime) -> tuple[str, ...]:
        """Return the names of claims that still have a use, in order.

        A claim has one while a token of it is open, or was used for a certificate that
        has not been seen in use: its holder may have missed the answer.
        """
        rows = self.connection.execute(
            select(claims.c.name)
            .where(claims.c.expires_at > now, self._wanted(now))
            .order_by(claims.c.name)
        )
        return tuple(row.name for row in rows)

    def ended(self, now: datetime) -> tuple[Claim, ...]:
        """Return claims that have not expired and yet have no use any more."""
        rows = self.connection.execute(
            select(claims)
            .where(claims.c.expires_at > now, ~self._wanted(now))
            .order_by(claims.c.serial)
        )
        return tuple(Claim(**row._asdict()) for row in rows)

    @staticmethod
    def _wanted(now: datetime) -> ColumnElement[bool]:
        given = select(certificates.c.serial).where(
            certificates.c.serial == tokens.c.serial,
            certificates.c.used_at.is_(None),
            certificates.c.revoked_at.is_(None),
        )
        open_ = tokens.c.used_at.is_(None) | given.exists()
        return (
            select(tokens.c.digest)
            .where(tokens.c.claim == claims.c.name, open_)
            .where(tokens.c.withdrawn_at.is_(None), tokens.c.expires_at > now)
            .exists()
        )


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Tokens, by their digests."""

    connection: Connection

    def add(self, made: Sequence[Token]) -> None:
        """Record tokens that were made."""
        if made:
            self.connection.execute(insert(tokens), [asdict(it) for it in made])
            changed(self.connection)

    def some(self, digests: Collection[str]) -> dict[str, Token]:
        """Return those of ``digests`` that there are, at most a few thousand."""
        rows = self.connection.execute(
            select(tokens).where(tokens.c.digest.in_(digests))
        )
        return {row.digest: Token(**row._asdict()) for row in rows}

    def open(self, now: datetime, device: str | None = None) -> tuple[Token, ...]:
        """Return the tokens that can still be used, the first to expire first."""
        of = true() if device is None else tokens.c.device == device
        rows = self.connection.execute(
            select(tokens)
            .where(tokens.c.expires_at > now, of)
            .where(tokens.c.used_at.is_(None), tokens.c.withdrawn_at.is_(None))
            .order_by(tokens.c.expires_at, tokens.c.device)
        )
        return tuple(Token(**row._asdict()) for row in rows)

    def use(self, given: Mapping[str, str], now: datetime) -> None:
        """Note the certificates, by serial, that were given for tokens, by digest."""
        if given:
            self.connection.execute(
                update(tokens)
                .where(tokens.c.digest == bindparam("of"))
                .values(used_at=now, serial=bindparam("gave")),
                [{"of": digest, "gave": it} for digest, it in given.items()],
            )

    def withdraw(self, ids: Collection[str], now: datetime) -> int:
        """Close every open token of these devices; return how many that were."""
        done = self.connection.execute(
            update(tokens)
            .where(tokens.c.device.in_(ids), tokens.c.withdrawn_at.is_(None))
            .where(tokens.c.expires_at > now)
            .values(withdrawn_at=now)
        )
        changed(self.connection)
        return done.rowcount


@dataclass(frozen=True, slots=True)
class CertificateTable:
    """Every certificate that was issued to a device, until long after it expired."""

    connection: Connection

    def add(self, issued: Sequence[Certificate]) -> None:
        """Record certificates; call it before anybody gets them."""
        if issued:
            rows = [asdict(it) for it in issued]
            self.connection.execute(insert(certificates), rows)
            changed(self.connection)

    def of(self, device: str) -> tuple[Certificate, ...]:
        """Return the certificates of ``device``, newest first."""
        return self.some([device]).get(device, ())

    def some(self, ids: Collection[str]) -> dict[str, tuple[Certificate, ...]]:
        """Return the certificates of those of ``ids`` that have any, newest first."""
        return self._by_device(certificates.c.device.in_(ids))

    def newest(self) -> dict[str, Certificate]:
        """Return the newest certificate of every device, for a whole fleet."""
        top = (
            select(
                certificates.c.device, func.max(certificates.c.generation).label("g")
            )
            .group_by(certificates.c.device)
            .subquery()
        )
        rows = self.connection.execute(
            select(certificates).join(
                top,
                (certificates.c.device == top.c.device)
                & (certificates.c.generation == top.c.g),
            )
        )
        return {row.device: Certificate(**row._asdict()) for row in rows}

    def holders(self, keys: Collection[bytes]) -> dict[bytes, str]:
        """Return which of these public keys were certified before, and for whom."""
        rows = self.connection.execute(
            select(certificates.c.public_key, certificates.c.device).where(
                certificates.c.public_key.in_(keys)
            )
        )
        return {row.public_key: row.device for row in rows}

    def by_serial(self, serials: Collection[str]) -> dict[str, Certificate]:
        """Return the certificates of these serial numbers."""
        rows = self.connection.execute(
            select(certificates).where(certificates.c.serial.in_(serials))
        )
        return {row.serial: Certificate(**row._asdict()) for row in rows}

    def live(self, now: datetime) -> tuple[Live, ...]:
        """Return what admits devices now, in the order of devices and generations."""
        rows = self.connection.execute(
            select(
                certificates.c.device, devices.c.device_class, certificates.c.generation
            )
            .join(devices, devices.c.id == certificates.c.device)
            .where(_live(now), devices.c.revoked_at.is_(None))
            .order_by(certificates.c.device, certificates.c.generation)
        )
        return tuple(Live(*row) for row in rows)

    def ended(self, now: datetime) -> tuple[Certificate, ...]:
        """Return those taken back or retired that have not expired, by serial."""
        rows = self.connection.execute(
            select(certificates)
            .where(certificates.c.not_after > now)
            .where(
                certificates.c.revoked_at.is_not(None)
                | certificates.c.retired_at.is_not(None)
            )
            .order_by(certificates.c.serial)
        )
        return tuple(Certificate(**row._asdict()) for row in rows)

    def revoke(self, ids: Collection[str], why: str, now: datetime) -> int:
        """Take back every certificate of these devices; return how many."""
        done = self.connection.execute(
            update(certificates)
            .where(certificates.c.device.in_(ids))
            .where(certificates.c.revoked_at.is_(None), certificates.c.not_after > now)
            .values(revoked_at=now, revoked_why=why)
        )
        changed(self.connection)
        return done.rowcount

    def retire(self, serials: Collection[str], now: datetime) -> None:
        """Have these admit nobody any more."""
        if serials:
            self.connection.execute(
                update(certificates)
                .where(certificates.c.serial.in_(serials))
                .values(retired_at=now)
            )
            changed(self.connection)

    def unsettled(self) -> bool:
        """Return whether a device came with a certificate that was not seen in use."""
        return self.connection.execute(_first_seen().limit(1)).first() is not None

    def settle(self, now: datetime, ids: Collection[str] | None = None) -> int:
        """Note which certificates devices, or those of ``ids``, were seen to come with.

        Those before are retired. Return how many were seen for the first time.
        """
        of = true() if ids is None else certificates.c.device.in_(ids)
        seen = self.connection.execute(_first_seen().where(of)).all()
        for row in seen:
            self.connection.execute(
                update(certificates)
                .where(certificates.c.serial == row.serial)
                .values(used_at=now)
            )
            self.connection.execute(
                update(certificates)
                .where(certificates.c.device == row.device)
                .where(certificates.c.generation < row.generation)
                .where(certificates.c.retired_at.is_(None))
                .values(retired_at=now)
            )
        if seen:
            changed(self.connection)
        return len(seen)

    def uninvited(self, now: datetime) -> tuple[Session, ...]:
        """Return sessions of devices that came with nothing that admits them now."""
        matching = (presence.c.generation == 0) | (
            certificates.c.generation == presence.c.generation
        )
        admitted = select(certificates.c.serial).where(
            certificates.c.device == presence.c.device, _live(now), matching
        )
        rows = self.connection.execute(
            select(presence.c.device, presence.c.client)
            .join(devices, devices.c.id == presence.c.device)
            .where(presence.c.online, presence.c.client != "")
            .where(devices.c.revoked_at.is_not(None) | ~admitted.exists())
        )
        return tuple(Session(*row) for row in rows)

    def forget(self, before: datetime) -> int:
        """Drop certificates that expired before ``before``, but each device's newest.

        The newest one keeps the count of generations.
        """
        later = certificates.alias("later")
        statement = certificates.delete().where(
            certificates.c.not_after < before,
            select(later.c.serial)
            .where(later.c.device == certificates.c.device)
            .where(later.c.generation > certificates.c.generation)
            .exists(),
        )
        return self.connection.execute(statement).rowcount

    def _by_device(
        self, wanted: ColumnElement[bool]
    ) -> dict[str, tuple[Certificate, ...]]:
        rows = self.connection.execute(
            select(certificates)
            .where(wanted)
            .order_by(certificates.c.generation.desc())
        )
        found: dict[str, list[Certificate]] = {}
        for row in rows:
            found.setdefault(row.device, []).append(Certificate(**row._asdict()))
        return {device: tuple(them) for device, them in found.items()}


@dataclass(frozen=True, slots=True)
class RevisionTable:
    """Counts the changes of who may use the broker."""

    connection: Connection

    def identity(self) -> int:
        """Return a number that rises with every change."""
        found = self.connection.execute(
            select(revisions.c.number).where(revisions.c.subject == _SUBJECT)
        ).scalar_one_or_none()
        return found or 0


def _live(now: datetime) -> ColumnElement[bool]:
    return (
        certificates.c.revoked_at.is_(None)
        & certificates.c.retired_at.is_(None)
        & (certificates.c.not_after > now)
    )


def _first_seen() -> Select[tuple[str, str, int]]:
    return (
        select(certificates.c.serial, certificates.c.device, presence.c.generation)
        .join(presence, presence.c.device == certificates.c.device)
        .where(certificates.c.generation == presence.c.generation)
        .where(certificates.c.used_at.is_(None))
        .where(certificates.c.retired_at.is_(None))
        .where(certificates.c.revoked_at.is_(None))
    )


def changed(connection: Connection) -> None:
    """Note that who may use the broker has changed."""
    connection.execute(
        insert(revisions)
        .values(subject=_SUBJECT, number=1)
        .on_conflict_do_update(["subject"], set_={"number": revisions.c.number + 1})
    )
