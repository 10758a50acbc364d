"""The ceremony: who must sign, and what is in force when they have."""

from pathlib import Path

import pytest

from quarterdeck_controller.founding import create_home, halves_by_role
from quarterdeck_controller.home import Settings
from quarterdeck_controller.repository.changes import (
    add_class,
    rotated,
    with_threshold,
)
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.repository.guard import check_offline_keys
from quarterdeck_controller.repository.keyfile import key_name, make_key
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.repository import Committed
from quarterdeck_controller.repository.requests import Request
from quarterdeck_shared.codes import Code
from tests.support.ceremony import (
    OFFLINE,
    Fleet,
    copied_fleet,
    one_more_root,
    proposed,
    refuses,
)
from tests.support.releases import NOW, ManualClock, publish


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return copied_fleet(tmp_path / "fleet")


def test_a_fleet_begins_when_every_holder_has_signed_on_a_machine_of_their_own(
    tmp_path: Path,
) -> None:
    fleet = Fleet(tmp_path, begun=False)
    (request,) = fleet.repository.requests()
    assert set(request.roles) == {
        "root", "targets", "director", "time", "provenance", "class-cam",
    }  # fmt: skip
    early = refuses(fleet.repository.chain)
    assert early.code is Code.SIGNATURES_MISSING
    assert request.id in early.detail

    for name in ("root-1", "targets", "class-cam", "provenance"):
        assert isinstance(fleet.signed(request, name), Request)
    (lack,) = fleet.repository.lacks(fleet.repository.request(request.id))
    assert (lack.role, lack.need) == ("root", 1)
    done = fleet.signed(request, "root-3")

    assert isinstance(done, Committed)
    assert set(fleet.versions().values()) == {1}
    assert fleet.repository.requests() == ()
    assert {file.name for file in fleet.home.keys.iterdir()} == {
        "snapshot.pem", "timestamp.pem", "director.pem", "time.pem",
    }  # fmt: skip
    settings = fleet.home.settings()
    check_offline_keys(fleet.home, settings, fleet.clock)
    assert not settings.test


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        ("targets", "targets needs 1"),
        ("class-cam", "class-cam needs 1"),
        ("provenance", "provenance needs 1"),
        ("root-", "root needs 2"),
    ],
)
def test_a_fleet_does_not_begin_without_keys_of_every_role(
    tmp_path: Path, left_out: str, told: str
) -> None:
    halves = [
        make_key(tmp_path / "keys", name, "ed25519", None, NOW)
        for name in OFFLINE
        if not name.startswith(left_out)
    ]
    settings = Settings(fleet="f", classes=("cam",))

    refusal = refuses(
        lambda: create_home(
            tmp_path / "home",
            settings,
            ManualClock(),
            halves=halves_by_role(halves, ("cam",)),
        )
    )

    assert told in refusal.detail
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("root-7", "root"),
        ("targets", "targets"),
        ("class-cam-2", "class-cam"),
        ("class-cam-2-1", "class-cam-2"),
        ("provenance-12", "provenance"),
    ],
)
def test_a_public_half_goes_to_the_role_that_it_is_named_for(
    tmp_path: Path, name: str, role: str
) -> None:
    half = make_key(tmp_path, name, "ed25519", None, NOW)
    classes = ("cam",) if name != "class-cam-2-1" else ("cam", "cam-2")

    assert list(halves_by_role([half], classes)) == [role]


@pytest.mark.parametrize("name", ["director", "alice", "class-fridge", "root-x"])
def test_a_public_half_that_is_named_for_no_role_is_refused(
    tmp_path: Path, name: str
) -> None:
    half = make_key(tmp_path, name, "ed25519", None, NOW)

    refusal = refuses(lambda: halves_by_role([half], ("cam",)))

    assert refusal.code is Code.NAME_INVALID
    assert name in refusal.detail


def test_a_release_waits_for_the_class_key_and_is_in_force_with_it(
    fleet: Fleet,
) -> None:
    request = publish(fleet.repository)
    assert isinstance(request, Request)
    assert fleet.versions()["class-cam"] == 1
    (index,) = request.terms.attachments

    folder = fleet.exported(request)
    fleet.answer(folder, "class-cam")
    outcome = fleet.imported(request, folder)

    assert isinstance(outcome, Committed)
    assert fleet.versions()["class-cam"] == 2
    assert fleet.repository.read(index.name) is not None
    assert (folder / "attachments" / index.name).is_file()


def test_signatures_of_several_holders_are_merged_in_any_order(fleet: Fleet) -> None:
    request = one_more_root(fleet)
    first, second = fleet.exported(request), fleet.exported(request)
    fleet.answer(first, "root-3")
    fleet.answer(second, "root-1")

    assert isinstance(fleet.imported(request, second), Request)
    assert isinstance(fleet.imported(request, second), Request)  # twice is no more
    outcome = fleet.imported(request, first)

    assert isinstance(outcome, Committed)
    assert fleet.versions()["root"] == 2


def test_a_new_set_of_root_keys_is_signed_by_the_old_and_by_the_new(
    fleet: Fleet,
) -> None:
    names = ("root-7", "root-8", "root-9")
    keys = [fleet.new_key(name).public() for name in names]
    request = proposed(fleet, "root", rotated(fleet.repository.chain(), "root", keys))

    assert isinstance(fleet.signed(request, "root-1", "root-2", "root-3"), Request)
    assert isinstance(fleet.signed(request, "root-7"), Request)
    assert isinstance(fleet.signed(request, "root-9"), Committed)

    assert {key_name(k) for k in fleet.repository.chain().quorum("root").keys.values()}
    following = proposed(
        fleet, "root", with_threshold(fleet.repository.chain(), "root", 3)
    )
    refusal = refuses(lambda: fleet.signed(following, "root-1"))
    assert refusal.code in (Code.SIGNATURE_INVALID, Code.MALFORMED)
    assert isinstance(fleet.signed(following, *names), Committed)


def test_new_keys_of_targets_sign_targets_anew(fleet: Fleet) -> None:
    key = fleet.new_key("targets-2").public()
    request = proposed(
        fleet, "targets", rotated(fleet.repository.chain(), "targets", [key])
    )

    assert set(request.roles) == {"root", "targets"}
    outcome = fleet.signed(request, "root-1", "root-2", "targets-2")

    assert isinstance(outcome, Committed)
    assert fleet.versions()["targets"] == 2


def test_a_stolen_class_key_is_replaced_and_signs_nothing_any_more(
    fleet: Fleet,
) -> None:
    key = fleet.new_key("class-cam-2").public()
    request = proposed(
        fleet, "class-cam", rotated(fleet.repository.chain(), "class-cam", [key])
    )
    assert isinstance(fleet.signed(request, "targets", "class-cam-2"), Committed)

    listing = publish(fleet.repository)
    assert isinstance(listing, Request)
    refusal = refuses(lambda: fleet.signed(listing, "class-cam"))

    assert refusal.code in (Code.SIGNATURE_INVALID, Code.MALFORMED)
    assert isinstance(fleet.signed(listing, "class-cam-2"), Committed)


def test_an_online_key_is_replaced_through_those_who_hold_root(fleet: Fleet) -> None:
    chain = fleet.repository.chain()
    old = chain.keyids("timestamp")
    made = KeyFolder(fleet.home.keys).create("timestamp-2")
    request = proposed(fleet, "timestamp", rotated(chain, "timestamp", [made]))
    assert fleet.repository.chain().keyids("timestamp") == old

    outcome = fleet.signed(request, "root-2", "root-3")

    assert isinstance(outcome, Committed)
    assert fleet.repository.chain().keyids("timestamp") == (made.keyid,)
    fleet.clock.forward(hours=13)
    assert fleet.repository.renew(fleet.clock.now()).renewed == ("timestamp",)


def test_the_director_takes_up_its_new_key_while_it_serves(fleet: Fleet) -> None:
    director = Director(fleet.home)
    before = director.keyids()
    made = KeyFolder(fleet.home.keys).create("director-2")
    chain = fleet.repository.chain()
    request = proposed(fleet, "director", rotated(chain, "director", [made]))
    assert director.keyids() == before

    assert isinstance(fleet.signed(request, "targets"), Committed)

    assert director.keyids() == {made.keyid}


def test_a_class_is_added_by_targets_and_by_its_own_key(fleet: Fleet) -> None:
    key = fleet.new_key("class-gateway").public()
    with fleet.repository.exclusive():
        changed = add_class(fleet.repository.chain(), "gateway", [key], NOW)
        request = fleet.repository.propose(changed, why="a class")
    assert isinstance(request, Request)

    outcome = fleet.signed(request, "class-gateway", "targets")

    assert isinstance(outcome, Committed)
    assert fleet.repository.chain().keyids("class-gateway") == (key.keyid,)
