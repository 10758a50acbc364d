"""Whether a device is there, from births and wills (pure; PROTOCOL.md section 3).

Each session goes by a client id of its own, so that two agents with one identity do not
cut each other off: both stay. A restart looks the same at first: a birth of another
boot while the session before is still believed to be there. Only the answer to
``rebirth`` tells them apart, for a boot that has ended gives none. One answer may be an
old birth delivered again; the second is proof.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from quarterdeck_controller.store.records import Presence
from quarterdeck_shared.reported import Reported, SessionState

RETURNS = 2
"""So many births of a former boot beside the present one are no accident."""

DUPLICATE_SHOWN = timedelta(minutes=10)
"""How long after the last alternation an identity is shown as used twice."""


class Heard(StrEnum):
    """What a session message turned out to be."""

    CAME = "came"
    LEFT = "left"
    KNOWN = "known"
    STALE = "stale"
    DUPLICATE = "duplicate"


def hear(
    device: str, before: Presence | None, state: SessionState, now: datetime
) -> tuple[Heard, Presence]:
    """Return what ``state`` means, and the presence after it.

    A will counts only when its boot and connection are those of the last birth. A
    boot that had been replaced and has a new connection, or shows itself twice while
    the other is there, is another agent with the same identity.
    """
    if before is None:
        heard = Heard.CAME if state.online else Heard.LEFT
        return heard, _first(device, state, now)
    if not state.online:
        return _will(before, state, now)
    if state.boot == before.boot:
        return _again(before, state, now)
    return _other_boot(before, state, now)


def contested(before: Presence | None, state: SessionState) -> bool:
    """Return whether ``state`` is of one boot while another is believed online.

    Both have to be asked to show themselves then.
    """
    if before is None or not (before.online and state.online):
        return False
    return state.boot != before.boot


def duplicate(presence: Presence, now: datetime) -> bool:
    """Return whether two agents used this identity lately."""
    since = presence.alternated_at
    return since is not None and now < since + DUPLICATE_SHOWN


def fresh(
    known_boot: int | None, known_step: int, session_boot: int | None, new: Reported
) -> bool:
    """Return whether ``new`` is not older than the report that is known.

    The step only rises, but a device whose state was wiped begins again at 0: then
    it speaks in a new boot, which is that of its session.
    """
    if known_boot is None or new.step >= known_step:
        return True
    return new.boot != known_boot and new.boot == session_boot


def _first(device: str, state: SessionState, now: datetime) -> Presence:
    return Presence(
        device,
        state.boot,
        state.connection,
        state.online,
        now,
        now,
        client=state.client,
        generation=state.generation,
    )


def _will(
    before: Presence, state: SessionState, now: datetime
) -> tuple[Heard, Presence]:
    same = (state.boot, state.connection) == (before.boot, before.connection)
    if not same:
        return Heard.STALE, before
    if not before.online:
        return Heard.KNOWN, before
    return Heard.LEFT, replace(before, online=False, changed_at=now)


def _again(
    before: Presence, state: SessionState, now: datetime
) -> tuple[Heard, Presence]:
    if state.connection < before.connection:
        return Heard.STALE, before
    if state.connection == before.connection and before.online:
        return Heard.KNOWN, before
    # The same connection again after a will is the answer to a "rebirth".
    return Heard.CAME, _born(before, state, now)


def _other_boot(
    before: Presence, state: SessionState, now: datetime
) -> tuple[Heard, Presence]:
    if state.boot != before.former_boot:
        return Heard.CAME, replace(_took_over(before, state, now), returns=0)
    if state.connection < before.former_connection:
        return Heard.STALE, before
    if state.connection == before.former_connection:
        return _shown_again(before, state, now)
    return _duplicate(before, state, now)


def _shown_again(
    before: Presence, state: SessionState, now: datetime
) -> tuple[Heard, Presence]:
    if not before.online:  # the other has gone
        return Heard.CAME, replace(_took_over(before, state, now), returns=0)
    counted = replace(before, returns=before.returns + 1)
    if counted.returns < RETURNS:
        return Heard.STALE, counted
    return _duplicate(counted, state, now)


def _duplicate(
    before: Presence, state: SessionState, now: datetime
) -> tuple[Heard, Presence]:
    born = replace(_took_over(before, state, now), alternated_at=now)
    return Heard.DUPLICATE, born


def _took_over(before: Presence, state: SessionState, now: datetime) -> Presence:
    return replace(
        _born(before, state, now),
        former_boot=before.boot,
        former_connection=before.connection,
    )


def _born(before: Presence, state: SessionState, now: datetime) -> Presence:
    return replace(
        before,
        boot=state.boot,
        connection=state.connection,
        online=True,
        last_seen=now,
        # An unbroken "online" keeps its beginning over a quick reconnection.
        changed_at=before.changed_at if before.online else now,
        client=state.client,
        generation=state.generation,
    )
