"""What to do next for the device's identity, and why (pure)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from quarterdeck_agent.identity.certificate import Certificate
from quarterdeck_shared.codes import Code

FIRST_S, LONGEST_S = 1.0, 300.0
"""Waits after something that may work later: first, and at most."""
REFUSED_S = 3600.0
"""Wait after a refusal, which only a person can end."""


class Step(Enum):
    """What to do next."""

    TRY = "try"  # the certificate that came: is it let in?
    ENROL = "enrol"  # ask for a first certificate, with the token
    RENEW = "renew"  # ask for the next one, with the one in use
    REST = "rest"  # nothing before ``Plan.until``


class Rng(Protocol):
    """Where the jitter comes from: a ``random.Random``."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between ``a`` and ``b``."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """What is known when a step is chosen.

    Attributes:
        used: The certificate in use; None when there is none that can be used.
        new: One that came and was not let in yet.
        token: Whether a token is there.
        connected: Whether the broker has let the device in.
        refused: Whether the broker does not want the certificate in use.
    """

    used: Certificate | None
    new: Certificate | None
    token: bool
    connected: bool
    refused: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step, or until when to rest.

    Attributes:
        code: What is wrong, for a person; None when nothing is.
    """

    step: Step
    until: datetime | None = None
    code: Code | None = None
    detail: str = ""


def plan(view: View, now: datetime) -> Plan:
    """Return what to do at ``now``.

    A device never gives up a certificate before the next one was let in, and tries to
    connect even with one that its clock takes for expired: the clock may be wrong.
    """
    used = view.used
    if view.new is not None:
        return Plan(Step.TRY)
    if used is not None and view.connected:
        due = now >= used.renews()
        return Plan(Step.RENEW) if due else Plan(Step.REST, used.renews())
    if view.token and (used is None or view.refused or now >= used.ends):
        return Plan(Step.ENROL)
    if used is None:
        return Plan(Step.REST, None, Code.NOT_ENROLLED, "there is no token either")
    if doubt := _doubt(used, now):
        return Plan(Step.REST, None, Code.CERTIFICATE_INVALID, doubt)
    return Plan(Step.REST)


def wait_s(failures: int, *, refused: bool, rng: Rng) -> float:
    """Return how long to wait after so many failures in a row, with jitter."""
    longest = (
        REFUSED_S if refused else min(LONGEST_S, FIRST_S * 2.0 ** min(failures, 16))
    )
    return longest * rng.uniform(0.5, 1.0)


def clock_doubt(begins: datetime, ends: datetime, now: datetime) -> str:
    """Return how this machine's clock leaves a span that must hold now; "" if not."""
    if begins - timedelta(seconds=1) <= now < ends:
        return ""
    return (
        f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, "
        f"it is valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC"
    )


def _doubt(used: Certificate, now: datetime) -> str:
    if now < used.ends:
        return clock_doubt(used.begins, used.ends, now)
    return f"it expired {used.ends:%Y-%m-%d %H:%M} UTC, it is {now:%Y-%m-%d %H:%M} UTC"
