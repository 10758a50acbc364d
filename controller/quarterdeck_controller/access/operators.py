"""The rules on operators: who is made, changed and revoked, and who is not.

The first operator of a home is an admin, and one who can act is always left. A name is
given once: the audit log would mix two people otherwise. Only digests of credentials
are kept.
"""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509

from quarterdeck_controller.access.authenticate import (
    certificate_digest,
    token_digest,
)
from quarterdeck_controller.access.roles import Role
from quarterdeck_controller.store.access import Operator
from quarterdeck_controller.store.ledger import CONTROLLER
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

PREFIX = "qdo_"
"""Every token begins so, which those who search for leaked secrets can look for."""

MAX_NAME = 55
"""So that ``operator-<name>`` is no longer than a common name may be."""

MAX_VALID = timedelta(days=3650)
_TOKEN_BYTES = 32
_RESERVED = frozenset({CONTROLLER.actor, "os", "root", "broker"})


@dataclass(frozen=True, slots=True)
class Lent:
    """What is kept of the credential that an operator is given."""

    expires_at: datetime
    token_digest: str | None = None
    certificate: str | None = None


def new_token() -> str:
    """Return a fresh token; it is shown once and never kept."""
    return PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def lent_token(token: str, now: datetime, valid: timedelta) -> Lent:
    """Return what is kept of ``token``.

    Raises:
        RejectedError: ``NOT_ALLOWED`` for a time that makes no sense.
    """
    return Lent(now + check_valid(valid), token_digest=token_digest(token))


def lent_certificate(certificate: x509.Certificate) -> Lent:
    """Return what is kept of ``certificate``."""
    expires = certificate.not_valid_after_utc
    return Lent(expires, certificate=certificate_digest(certificate))


def check_name(name: str) -> None:
    """Refuse a name that no operator may have.

    Raises:
        RejectedError: ``NAME_INVALID``.
    """
    if not is_name(name) or len(name) > MAX_NAME:
        raise RejectedError(
            Code.NAME_INVALID, f"operator {name!r} ({MAX_NAME} characters at most)"
        )
    if name in _RESERVED:
        raise RejectedError(Code.NAME_INVALID, f"operator {name!r} is reserved")


def check_valid(valid: timedelta) -> timedelta:
    """Return ``valid``, or refuse a time for which no credential may be good.

    Raises:
        RejectedError: ``NOT_ALLOWED``.
    """
    if not timedelta() < valid <= MAX_VALID:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"valid for {valid.total_seconds():.0f} s: more than nothing and at most"
            f" {MAX_VALID.days} days",
        )
    return valid


def add(records: Records, name: str, role: Role, lent: Lent, now: datetime) -> Operator:
    """Record a new operator and return it.

    Raises:
        RejectedError: ``NAME_INVALID``, ``CONFLICT`` when there was ever one of that
            name, ``NOT_ALLOWED`` when the first is no admin.
    """
    check_name(name)
    if role is not Role.ADMIN and not records.operators.exist():
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"{name} would be {role} of a home that has no admin: the first operator"
            " is one",
        )
    operator = _lend(Operator(name, role, now, now), lent)
    if not records.operators.add(operator):
        raise RejectedError(
            Code.CONFLICT, f"there is or was an operator {name}; a name is given once"
        )
    return operator


def renew(records: Records, name: str, lent: Lent) -> Operator:
    """Replace the operator's credential; the one before is good no longer.

    Raises:
        RejectedError: ``NOT_FOUND``, or ``NOT_ALLOWED`` for one who was revoked.
    """
    return _changed(records, _lend(current(records, name), lent))


def change_role(records: Records, name: str, role: Role, now: datetime) -> Operator:
    """Give the operator another role.

    Raises:
        RejectedError: ``NOT_FOUND``, or ``NOT_ALLOWED`` for one who was revoked and
            when no admin would be left.
    """
    before = current(records, name)
    if role is not Role.ADMIN:
        _check_admin_left(records, before, now)
    return _changed(records, replace(before, role=role))


def revoke(records: Records, name: str, now: datetime) -> Operator:
    """Let the operator in no more. To revoke again changes nothing.

    Raises:
        RejectedError: ``NOT_FOUND``, or ``NOT_ALLOWED`` when no admin would be left.
    """
    before = get(records, name)
    if before.revoked_at is not None:
        return before
    _check_admin_left(records, before, now)
    return _changed(records, replace(before, revoked_at=now))


def recover(records: Records, name: str, lent: Lent, now: datetime) -> Operator:
    """Make ``name`` an admin with this credential, whatever they were before.

    Raises:
        RejectedError: ``NAME_INVALID``.
    """
    check_name(name)
    operator = _lend(Operator(name, Role.ADMIN, now, now), lent)
    if records.operators.add(operator):
        return operator
    before = get(records, name)
    return _changed(records, replace(operator, created_at=before.created_at))


def get(records: Records, name: str) -> Operator:
    """Return the operator of that name.

    Raises:
        RejectedError: ``NOT_FOUND``.
    """
    found = records.operators.get(name)
    if found is None:
        raise RejectedError(Code.NOT_FOUND, f"no operator {name}")
    return found


def current(records: Records, name: str) -> Operator:
    """Return the operator of that name, who was not revoked.

    Raises:
        RejectedError: ``NOT_FOUND`` or ``NOT_ALLOWED``.
    """
    found = get(records, name)
    if found.revoked_at is not None:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"{name} was revoked at {found.revoked_at:%Y-%m-%d %H:%M} UTC, which"
            " cannot be undone: add them under another name",
        )
    return found


def _check_admin_left(records: Records, leaving: Operator, now: datetime) -> None:
    others = (it for it in records.operators.all() if it.name != leaving.name)
    if leaving.role != Role.ADMIN:
        return
    if not any(it.role == Role.ADMIN and it.usable(now) for it in others):
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"{leaving.name} is the last admin who can act: make or renew another"
            " first",
        )


def _lend(operator: Operator, lent: Lent) -> Operator:
    return replace(
        operator,
        expires_at=lent.expires_at,
        token_digest=lent.token_digest,
        certificate=lent.certificate,
    )


def _changed(records: Records, operator: Operator) -> Operator:
    records.operators.change(operator)
    return operator
