from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck_controller.fleet.inventory import Selector, select
from quarterdeck_controller.fleet.presence import (
    Heard,
    contested,
    duplicate,
    fresh,
    hear,
)
from quarterdeck_controller.store.records import Device, Presence
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.reported import Reported, SessionState
from tests.support.fleet import Core, FakeDevice
from tests.support.rollouts import ARM, START, X86

DEVICES = (
    Device("till-1", ARM, ("site-a",), START),
    Device("till-2", ARM, ("site-b",), START),
    Device("gate-1", X86, ("site-a", "spare"), START),
)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("all", ["till-1", "till-2", "gate-1"]),
        (f"class={ARM}", ["till-1", "till-2"]),
        ("tag=site-a", ["till-1", "gate-1"]),
        (f"class={ARM},tag=site-a", ["till-1"]),
        (f" class = {ARM} , tag = site-a ", ["till-1"]),
        ("tag=site-a,tag=spare", ["gate-1"]),
        ("tag=spare|site-b", ["till-2", "gate-1"]),
        ("till-2 gate-1", ["till-2", "gate-1"]),
        ("till-2,gate-1", ["till-2", "gate-1"]),
        ("id=till-1|till-2", ["till-1", "till-2"]),
        ("tag=nobody", []),
    ],
)
def test_a_selector_names_a_cohort(text: str, ids: list[str]) -> None:
    assert [device.id for device in Selector.parse(text).of(DEVICES)] == ids


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("colour=red", "'colour' is none of class, tag, id"),
        ("class=", "'' is not a name"),
        ("class=a,,tag=b", "not of the form key=value"),
        ("class=a,till-1", "not of the form key=value"),
        ("class=a=b", "not of the form key=value"),
        ("tag=Site A", "'Site A' is not a name"),
        ("../etc", "is not a name"),
        ("x" * 9000, "too long"),
    ],
)
def test_a_selector_that_makes_no_sense_says_where(text: str, words: str) -> None:
    with pytest.raises(RejectedError) as caught:
        Selector.parse(text)

    assert caught.value.code is Code.SELECTOR_INVALID
    assert words in caught.value.detail


def test_an_id_that_nobody_has_is_an_error(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.enrol("till-1")

    with core.store.read() as records, pytest.raises(RejectedError) as caught:
        select(records, "till-1 tlil-2")
    core.close()

    assert caught.value.code is Code.NOT_FOUND
    assert "tlil-2" in caught.value.detail


@pytest.mark.parametrize("name", ["Till", "a/b", "", "a" * 65, "-a", "a+"])
def test_a_bad_device_id_is_refused(tmp_path: Path, name: str) -> None:
    core = Core(tmp_path / "db")

    with pytest.raises(RejectedError) as caught:
        core.enrol(name)
    core.close()

    assert caught.value.code is Code.NAME_INVALID


def test_an_id_is_enrolled_once(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.enrol("till-1")

    with pytest.raises(RejectedError) as caught:
        core.enrol("till-1")
    core.close()

    assert caught.value.code is Code.CONFLICT


def state(boot: int, connection: int, *, online: bool = True) -> SessionState:
    return SessionState(online=online, boot=boot, connection=connection)


def story(*states: SessionState) -> tuple[list[Heard], Presence]:
    heard, presence = [], None
    for number, told in enumerate(states):
        what, presence = hear("d", presence, told, START + timedelta(seconds=number))
        heard.append(what)
    assert presence is not None
    return heard, presence


def test_a_device_comes_and_leaves() -> None:
    heard, presence = story(state(1, 1), state(1, 1, online=False))

    assert heard == [Heard.CAME, Heard.LEFT]
    assert not presence.online
    assert presence.changed_at == START + timedelta(seconds=1)


def test_the_will_of_an_earlier_connection_is_stale() -> None:
    heard, presence = story(state(1, 1), state(1, 2), state(1, 1, online=False))

    assert heard[-1] is Heard.STALE
    assert presence.online


def test_the_will_of_an_earlier_boot_is_stale() -> None:
    heard, presence = story(state(1, 5), state(2, 1), state(1, 5, online=False))

    assert heard[-1] is Heard.STALE
    assert presence.online


def test_an_older_birth_that_arrives_late_is_stale() -> None:
    heard, presence = story(state(1, 2), state(1, 1))

    assert heard[-1] is Heard.STALE
    assert presence.connection == 2


def test_a_restart_is_no_duplicate() -> None:
    heard, presence = story(state(1, 1), state(2, 1), state(3, 1))

    assert Heard.DUPLICATE not in heard
    assert not duplicate(presence, START)


def test_two_boots_that_alternate_are_a_duplicate_identity() -> None:
    heard, presence = story(state(1, 1), state(2, 1), state(1, 2), state(2, 2))

    assert heard[2:] == [Heard.DUPLICATE, Heard.DUPLICATE]
    assert duplicate(presence, START + timedelta(seconds=4))
    assert not duplicate(presence, START + timedelta(hours=1))


@pytest.mark.parametrize("first", [1, 2])
def test_two_boots_that_both_answer_twice_are_a_duplicate_identity(first: int) -> None:
    answers = (state(first, 1), state(3 - first, 1))

    heard, presence = story(state(1, 1), state(2, 1), *answers, *answers)

    assert Heard.DUPLICATE not in heard[:4]
    assert Heard.DUPLICATE in heard[4:]
    assert duplicate(presence, START + timedelta(seconds=6))


def test_two_agents_that_stay_go_on_being_found() -> None:
    answers = (state(1, 1), state(2, 1))

    heard, presence = story(*answers, *answers, *answers, *answers)

    assert heard[-2:] == [Heard.DUPLICATE, Heard.DUPLICATE]
    assert presence.alternated_at == START + timedelta(seconds=7)


def test_an_old_birth_that_comes_again_once_is_stale() -> None:
    heard, presence = story(state(1, 1), state(2, 1), state(1, 1), state(2, 1))

    assert heard[2:] == [Heard.STALE, Heard.KNOWN]
    assert presence.boot == 2
    assert not duplicate(presence, START)


def test_births_of_a_crash_loop_are_no_duplicate() -> None:
    heard, presence = story(*(state(boot, 1) for boot in range(1, 20)))

    assert set(heard) == {Heard.CAME}
    assert not duplicate(presence, START)


def test_the_other_of_two_agents_is_there_when_one_has_left() -> None:
    heard, presence = story(
        state(1, 1), state(2, 1), state(2, 1, online=False), state(1, 1)
    )

    assert heard[-1] is Heard.CAME
    assert (presence.boot, presence.online) == (1, True)
    assert not duplicate(presence, START)


def test_an_old_session_that_is_cut_at_last_takes_nobody_offline() -> None:
    heard, presence = story(state(1, 4), state(2, 1), state(1, 4, online=False))

    assert heard[-1] is Heard.STALE
    assert (presence.boot, presence.online) == (2, True)


@pytest.mark.parametrize(
    ("before", "told", "expected"),
    [
        ((state(1, 1),), state(2, 1), True),
        ((state(1, 1), state(2, 1)), state(1, 1), True),
        ((state(1, 1), state(1, 1, online=False)), state(2, 1), False),
        ((state(1, 1),), state(1, 2), False),
        ((state(1, 1),), state(2, 1, online=False), False),
    ],
)
def test_another_boot_beside_one_that_is_there_is_contested(
    before: tuple[SessionState, ...], told: SessionState, *, expected: bool
) -> None:
    _, presence = story(*before)

    assert contested(presence, told) is expected


def test_the_client_id_is_that_of_the_newest_birth() -> None:
    old, new = "a" * 32, "b" * 32
    born = SessionState(online=True, boot=1, connection=1, client=old)
    again = SessionState(online=True, boot=2, connection=1, client=new)

    assert story(born)[1].client == old
    assert story(born, again)[1].client == new
    assert story(born, again, state(1, 1, online=False))[1].client == new


def test_a_reconnection_that_overtakes_the_will_keeps_the_device_online() -> None:
    _, presence = story(state(1, 1), state(1, 2), state(1, 1, online=False))

    assert presence.changed_at == START


def test_the_answer_to_a_rebirth_brings_a_device_back() -> None:
    heard, presence = story(state(1, 1), state(1, 1, online=False), state(1, 1))

    assert heard[-1] is Heard.CAME
    assert presence.online


def reported(boot: int, step: int) -> Reported:
    device = FakeDevice("d", boot=boot, step=step)
    return Reported.decode(device.says().payload)


@pytest.mark.parametrize(
    ("known_boot", "known_step", "session", "new", "accepted"),
    [
        (None, 0, None, reported(1, 0), True),
        (1, 5, 1, reported(1, 6), True),
        (1, 5, 1, reported(1, 5), True),
        (1, 5, 1, reported(1, 4), False),
        (1, 5, 2, reported(2, 0), True),  # its state was wiped
        (2, 5, 2, reported(1, 4), False),
        (1, 5, 1, reported(2, 4), False),
    ],
)
def test_a_report_with_a_lower_step_is_stale_unless_the_device_began_anew(
    known_boot: int | None,
    known_step: int,
    session: int | None,
    new: Reported,
    accepted: bool,
) -> None:
    assert fresh(known_boot, known_step, session, new) is accepted
