"""Rollouts, what they touched, assignments and decisions, as rows."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, select, update
from sqlalchemy.dialects.sqlite import insert

from quarterdeck_controller.store.access import AuditTable
from quarterdeck_controller.store.ledger import By, Entry
from quarterdeck_controller.store.records import (
    Assigned,
    Decision,
    Member,
    Rollout,
    RolloutState,
    Runs,
)
from quarterdeck_controller.store.schema import (
    assignments,
    decisions,
    members,
    reported,
    rollouts,
)
from quarterdeck_shared.assignment import Probation, Target


@dataclass(frozen=True, slots=True)
class RolloutTable:
    """Rollouts and the devices they touched."""

    connection: Connection

    def add(self, rollout: Rollout) -> Rollout:
        """Record ``rollout`` and return it with the id it was given."""
        values = asdict(rollout)
        del values["id"]
        key = self.connection.execute(insert(rollouts).values(values))
        assert key.inserted_primary_key is not None
        return replace(rollout, id=key.inserted_primary_key[0])

    def get(self, rollout: int) -> Rollout | None:
        """Return the rollout of that id."""
        row = self.connection.execute(
            select(rollouts).where(rollouts.c.id == rollout)
        ).one_or_none()
        return None if row is None else _rollout(row)

    def all(self, *states: RolloutState) -> tuple[Rollout, ...]:
        """Return the rollouts in ``states``, or all, oldest first."""
        query = select(rollouts).order_by(rollouts.c.id)
        if states:
            query = query.where(rollouts.c.state.in_(states))
        return tuple(_rollout(row) for row in self.connection.execute(query))

    def replace(self, before: Rollout, after: Rollout) -> bool:
        """Change ``before`` to ``after``, unless someone else changed it first."""
        values = asdict(after) | {"revision": before.revision + 1}
        statement = (
            update(rollouts)
            .where(rollouts.c.id == before.id)
            .where(rollouts.c.revision == before.revision)
            .values(values)
        )
        return self.connection.execute(statement).rowcount > 0

    def members(self, *ids: int) -> tuple[Member, ...]:
        """Return the devices that these rollouts touched, in the order of waves."""
        rows = self.connection.execute(
            select(members)
            .where(members.c.rollout.in_(ids))
            .order_by(members.c.rollout, members.c.wave, members.c.device)
        )
        return tuple(_member(row) for row in rows)

    def put_members(self, touched: Iterable[Member]) -> None:
        """Record each device as touched."""
        values = [_member_values(member) for member in touched]
        if values:
            statement = insert(members)
            changed = {c.name: c for c in statement.excluded}
            self.connection.execute(
                statement.on_conflict_do_update(["rollout", "device"], set_=changed),
                values,
            )


@dataclass(frozen=True, slots=True)
class AssignmentTable:
    """Assignments, every one that was ever signed."""

    connection: Connection

    def sequences(self, ids: Collection[str]) -> dict[str, int]:
        """Return the newest sequence of those of ``ids`` that were ever assigned."""
        newest = func.max(assignments.c.sequence).label("newest")
        rows = self.connection.execute(
            select(assignments.c.device, newest)
            .where(assignments.c.device.in_(ids))
            .group_by(assignments.c.device)
        )
        return {row.device: row.newest for row in rows}

    def add(self, assigned: Sequence[Assigned]) -> None:
        """Record what was signed."""
        if assigned:
            self.connection.execute(
                insert(assignments), [_assigned_values(item) for item in assigned]
            )

    def get(self, device: str) -> Assigned | None:
        """Return the current assignment of ``device``: its newest."""
        row = self.connection.execute(
            select(assignments)
            .where(assignments.c.device == device)
            .order_by(assignments.c.sequence.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else _assigned(row)

    def digests(self) -> dict[str, str]:
        """Return the artifact that every assigned device must run."""
        rows = self.connection.execute(
            select(assignments.c.device, assignments.c.digest)
            .where(_is_current())
            .where(~assignments.c.withdrawn)
        )
        return {row.device: row.digest for row in rows}

    def reported(self) -> tuple[tuple[str, str], ...]:
        """Return device and artifact of what devices report that was assigned to them.

        Both what runs and what they can fall back on.
        """
        slots = (reported.c.active_digest, reported.c.previous_digest)
        rows = self.connection.execute(
            select(assignments.c.device, assignments.c.digest)
            .join(reported, reported.c.device == assignments.c.device)
            .where(assignments.c.digest.in_(slots))
            .distinct()
        )
        return tuple((row.device, row.digest) for row in rows)

    def unpublished(self, limit: int) -> tuple[Assigned, ...]:
        """Return current assignments that the broker has not acknowledged."""
        return self._current(~assignments.c.published, limit=limit)

    def due(self, before: datetime, signed_by: str, limit: int) -> tuple[Assigned, ...]:
        """Return current assignments that must be signed anew.

        They expire before ``before``, or were signed by other keys than ``signed_by``,
        which devices no longer believe.
        """
        old = assignments.c.signed_by != signed_by
        due = ((assignments.c.expires < before) | old) & ~assignments.c.withdrawn
        return self._current(due, limit=limit)

    def mark_published(self, published: Iterable[Assigned]) -> None:
        """Note that the broker has these, as they were when they were published.

        One that was withdrawn meanwhile stays to be published as withdrawn.
        """
        values = [
            {"of": it.device, "number": it.sequence, "was": it.withdrawn}
            for it in published
        ]
        if values:
            self.connection.execute(
                update(assignments)
                .where(assignments.c.device == bindparam("of"))
                .where(assignments.c.sequence == bindparam("number"))
                .where(assignments.c.withdrawn == bindparam("was"))
                .values(published=True),
                values,
            )

    def withdraw(self, ids: Collection[str]) -> None:
        """Take the current assignments of these devices back."""
        self.connection.execute(
            update(assignments)
            .where(assignments.c.device == bindparam("of"))
            .where(_is_current())
            .values(withdrawn=True, published=False),
            [{"of": device} for device in ids],
        )

    def sign_again(self, device: str, now: datetime) -> None:
        """Have the current assignment of ``device``, if any, count as expiring now."""
        self.connection.execute(
            update(assignments)
            .where(assignments.c.device == device, _is_current())
            .where(~assignments.c.withdrawn)
            .values(expires=now)
        )

    def mark_all_unpublished(self) -> None:
        """Note that the broker may have forgotten every assignment."""
        self.connection.execute(
            update(assignments).where(_is_current()).values(published=False)
        )

    def releases(self) -> dict[str, str]:
        """Return the release of each artifact that was ever assigned, by digest."""
        rows = self.connection.execute(
            select(assignments.c.digest, assignments.c.release).distinct()
        )
        return {row.digest: row.release for row in rows}

    def _current(
        self, condition: ColumnElement[bool], *, limit: int
    ) -> tuple[Assigned, ...]:
        query = select(assignments).where(_is_current()).where(condition)
        rows = self.connection.execute(query.limit(limit))
        return tuple(_assigned(row) for row in rows)


@dataclass(frozen=True, slots=True)
class DecisionTable:
    """What was decided, when, and on which numbers."""

    connection: Connection
    audit: AuditTable

    def add(self, decision: Decision) -> None:
        """Record ``decision``, in the audit log too."""
        values = asdict(replace(decision, numbers={}))
        values["numbers"] = dict(decision.numbers)
        self.connection.execute(insert(decisions).values(values))
        self.audit.append(_audited(decision, self.audit.by))

    def of(self, rollout: int, *, limit: int = 1000) -> tuple[Decision, ...]:
        """Return the decisions on ``rollout``, oldest first."""
        rows = self.connection.execute(
            select(decisions)
            .where(decisions.c.rollout == rollout)
            .order_by(decisions.c.id)
            .limit(limit)
        )
        return tuple(
            Decision(row.at, row.what, row.reason, row.rollout, row.numbers)
            for row in rows
        )


def _audited(decision: Decision, by: By) -> Entry:
    return Entry(
        decision.at,
        # An operator's word is the act that was asked for; the rest we decide.
        by.act or "rollout.decide",
        "" if decision.rollout is None else f"rollout:{decision.rollout}",
        detail={
            "what": decision.what,
            "reason": decision.reason,
            "numbers": decision.numbers,
        },
    )


def _is_current() -> ColumnElement[bool]:
    newer = assignments.alias("newer")
    return ~(
        select(newer.c.sequence)
        .where(newer.c.device == assignments.c.device)
        .where(newer.c.sequence > assignments.c.sequence)
        .exists()
    )


def _rollout(row: Row[tuple[object, ...]]) -> Rollout:
    values = row._asdict()
    return Rollout(**values | {"state": RolloutState(row.state)})


def _member(row: Row[tuple[object, ...]]) -> Member:
    values = row._asdict()
    release, target = values.pop("previous_release"), values.pop("previous_target")
    previous = None if release is None else Runs(release, _target(target))
    return Member(**values, previous=previous)


def _member_values(member: Member) -> dict[str, object]:
    previous = member.previous
    values = {
        name: getattr(member, name)
        for name in Member.__dataclass_fields__
        if name != "previous"
    }
    values["previous_release"] = previous.release if previous else None
    values["previous_target"] = previous.target.encode().decode() if previous else None
    return values


def _assigned(row: Row[tuple[object, ...]]) -> Assigned:
    values = row._asdict()
    del values["digest"]
    runs = Runs(values.pop("release"), _target(values.pop("target")))
    values["probation"] = Probation.decode(row.probation.encode())
    return Assigned(**values, runs=runs)


def _assigned_values(item: Assigned) -> dict[str, object]:
    values = {
        name: getattr(item, name)
        for name in Assigned.__dataclass_fields__
        if name != "runs"
    }
    values["release"] = item.runs.release
    values["target"] = item.runs.target.encode().decode()
    values["digest"] = item.runs.target.sha256
    values["probation"] = item.probation.encode().decode()
    return values


def _target(body: str) -> Target:
    return Target.decode(body.encode())
