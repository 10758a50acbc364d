"""Crashes, renewals, old metadata, and keys where they should not be."""

import errno
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck_controller.repository.changes import (
    rotated,
)
from quarterdeck_controller.repository.drafts import following
from quarterdeck_controller.repository.guard import check_offline_keys
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.repository import Committed, Repository
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError
from tests.support.ceremony import Fleet, copied_fleet, one_more_root, proposed, refuses
from tests.support.releases import ManualClock, copied_home


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return copied_fleet(tmp_path / "fleet")


def metadata_files(fleet: Fleet) -> dict[str, bytes]:
    folder = fleet.home.repository
    return {file.name: file.read_bytes() for file in folder.glob("*.json")}


class Cut:
    """A disk that fails after some writes."""

    def __init__(self, survived: int) -> None:
        self.left = survived

    def __call__(self, path: Path, data: bytes) -> None:
        if not self.left:
            raise OSError("the power went away")
        self.left -= 1
        write_durable(path, data)


@pytest.mark.parametrize("survived", range(3))
def test_a_crash_while_importing_loses_neither_signatures_nor_the_fleet(
    fleet: Fleet, survived: int
) -> None:
    request, before = one_more_root(fleet), fleet.versions()
    folder = fleet.exported(request)
    fleet.answer(folder, "root-1")
    fleet.answer(folder, "root-2")
    honest = fleet.repository
    fleet.repository = Repository(fleet.home, fleet.clock, write=Cut(survived))

    with pytest.raises(RejectedError, match="power"):
        fleet.imported(request, folder)

    fleet.repository = honest
    assert fleet.versions() == before
    assert isinstance(fleet.imported(request, folder), Committed)
    assert fleet.versions()["root"] == 2


def test_a_crash_in_the_moment_of_a_new_root_and_timestamp_parts_them_for_nobody(
    fleet: Fleet,
) -> None:
    made = KeyFolder(fleet.home.keys).create("timestamp-2")
    chain = fleet.repository.chain()
    request = proposed(fleet, "timestamp", rotated(chain, "timestamp", [made]))
    old = {
        file.name: file.read_bytes() for file in fleet.home.repository.glob("*.json")
    }
    assert isinstance(fleet.signed(request, "root-1", "root-2"), Committed)
    new = {
        file.name: file.read_bytes() for file in fleet.home.repository.glob("*.json")
    }
    changed = {name: data for name, data in new.items() if old.get(name) != data}
    for moved in range(len(changed) + 1):
        for file in fleet.home.repository.glob("*.json"):
            file.unlink()
        for name, data in old.items():
            (fleet.home.repository / name).write_bytes(data)
        due = fleet.home.repository / ".due"
        due.mkdir()
        for place, (name, data) in enumerate(sorted(changed.items())):
            folder = fleet.home.repository if place < moved else due
            (folder / name).write_bytes(data)

        seen = fleet.repository.chain()
        with fleet.repository.exclusive():
            pass

        assert seen.keyids("timestamp") == (made.keyid,)
        assert fleet.repository.chain().keyids("timestamp") == (made.keyid,)
        assert not due.exists()


def test_what_expires_and_cannot_be_signed_here_is_asked_for_once(
    fleet: Fleet,
) -> None:
    fleet.clock.forward(days=46)
    now = fleet.clock.now()

    first = fleet.repository.renew(now)
    again = fleet.repository.renew(now + timedelta(hours=13))

    assert first.waiting == ("class-cam",)
    (request,) = fleet.repository.requests()
    assert first.requests == (request.id,)
    assert "class-cam expires on 2027-01-30" in request.why
    assert (again.requests, again.waiting) == ((), ("class-cam",))
    assert {"timestamp", "director", "time"} <= set(first.renewed)
    assert isinstance(fleet.signed(request, "class-cam"), Committed)
    assert fleet.repository.renew(now + timedelta(hours=1)).waiting == ()


def test_a_role_in_an_open_request_is_not_renewed_under_it(fleet: Fleet) -> None:
    made = KeyFolder(fleet.home.keys).create("director-2")
    chain = fleet.repository.chain()
    request = proposed(fleet, "director", rotated(chain, "director", [made]))
    fleet.clock.forward(days=50)

    renewal = fleet.repository.renew(fleet.clock.now())

    assert "director" in renewal.waiting
    assert isinstance(fleet.signed(request, "targets"), Committed)
    assert fleet.repository.chain().keyids("director") == (made.keyid,)


@pytest.mark.parametrize("name", ["root-1", "targets", "class-cam", "provenance"])
@pytest.mark.parametrize("called", ["its name", "another"])
def test_a_controller_does_not_start_with_an_offline_key_in_its_home(
    fleet: Fleet, name: str, called: str
) -> None:
    settings = fleet.home.settings()
    check_offline_keys(fleet.home, settings, fleet.clock)
    file = fleet.home.keys / f"{name if called == 'its name' else 'harmless'}.pem"
    shutil.copy(fleet.key(name).path, file)

    refusal = refuses(lambda: check_offline_keys(fleet.home, settings, fleet.clock))

    assert refusal.code is Code.OFFLINE_KEYS_HERE
    assert str(file) in refusal.detail
    test = settings.model_copy(update={"test": True})
    check_offline_keys(fleet.home, test, fleet.clock)


def test_old_metadata_goes_and_what_a_device_may_ask_for_stays(tmp_path: Path) -> None:
    home, clock = copied_home(tmp_path / "home"), ManualClock()
    repository = Repository(home, clock)
    for _ in range(6):
        with repository.exclusive():
            role = following(
                repository.chain().delegated["class-cam"], "class-cam", clock.now()
            )
            assert isinstance(
                repository.propose({"class-cam": role}, why="a test"), Committed
            )
        clock.forward(hours=13)

    files = {file.name for file in home.repository.glob("*.json")}

    assert {"5.snapshot.json", "6.snapshot.json", "7.snapshot.json"} <= files
    assert {"5.class-cam.json", "6.class-cam.json", "7.class-cam.json"} <= files
    assert not {"1.snapshot.json", "2.snapshot.json", "3.class-cam.json"} & files
    assert {"1.root.json", "1.targets.json", "1.class-gateway.json"} <= files
    assert repository.chain().snapshot.version == 7


def test_a_request_that_came_into_force_before_a_crash_is_not_open_after_it(
    fleet: Fleet,
) -> None:
    request = one_more_root(fleet)
    folder = fleet.exported(request)
    fleet.answer(folder, "root-1")
    fleet.answer(folder, "root-2")
    kept = fleet.home.requests / request.id
    shutil.copytree(kept, fleet.folder / "aside")
    assert isinstance(fleet.imported(request, folder), Committed)
    shutil.copytree(fleet.folder / "aside", kept)

    with fleet.repository.exclusive():
        left = fleet.repository.requests()

    assert left == ()
    assert fleet.versions()["root"] == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00" * 40])
def test_a_damaged_request_keeps_nothing_from_being_signed_and_can_be_given_up(
    fleet: Fleet, damage: bytes
) -> None:
    request = one_more_root(fleet)
    (fleet.home.requests / request.id / "request.json").write_bytes(damage)
    fleet.clock.forward(hours=13)

    renewal = fleet.repository.renew(fleet.clock.now())

    assert renewal.renewed == ("timestamp",)
    assert fleet.repository.damaged_requests() == (request.id,)
    refusal = refuses(lambda: fleet.repository.request(request.id))
    assert refusal.code is Code.HOME_INVALID
    with fleet.repository.exclusive():
        fleet.repository.cancel(request.id)
    assert fleet.repository.damaged_requests() == ()


def test_a_full_disk_is_refused_as_that_and_the_old_state_is_in_force(
    fleet: Fleet,
) -> None:
    def full(path: Path, data: bytes) -> None:
        del path, data
        raise OSError(errno.ENOSPC, "No space left on device")

    before = fleet.versions()
    fleet.clock.forward(hours=13)

    refusal = refuses(
        lambda: Repository(fleet.home, fleet.clock, write=full).renew(fleet.clock.now())
    )

    assert refusal.code is Code.DISK_FULL
    assert fleet.versions() == before
