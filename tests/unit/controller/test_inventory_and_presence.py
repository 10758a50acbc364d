from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck_controller.fleet.inventory import Selector, select
from quarterdeck_controller.fleet.presence import Heard, duplicate, fresh, hear
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


def test_an_old_birth_of_a_replaced_boot_is_stale() -> None:
    heard, _ = story(state(1, 1), state(2, 1), state(1, 1))

    assert heard[-1] is Heard.STALE


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
