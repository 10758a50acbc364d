"""The table of the update machine."""

import pytest

from quarterdeck_agent.update.transitions import TABLE, Event, State, after


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", [Event.RESTARTED, Event.ASSIGNED, Event.FOUND])
def test_a_start_or_a_newer_assignment_may_come_in_every_state(
    state: State, event: Event
) -> None:
    assert (state, event) in TABLE


@pytest.mark.parametrize("state", State)
def test_a_start_changes_no_state(state: State) -> None:
    assert after(state, Event.RESTARTED) is state


def test_every_state_is_reached_and_every_event_is_used() -> None:
    assert set(TABLE.values()) == set(State)
    assert {event for _, event in TABLE} == set(Event)


@pytest.mark.parametrize("state", [s for s in State if s is not State.IDLE])
def test_a_failure_ends_idle_from_wherever_work_is_done(state: State) -> None:
    assert after(state, Event.FAILED) is State.IDLE


def test_only_a_proof_leads_to_the_switch() -> None:
    switching = {s for s, e in TABLE if e is Event.PROVED}

    assert switching == {State.PROVING}


def test_an_unknown_pair_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="proved cannot happen while idle"):
        after(State.IDLE, Event.PROVED)
