"""A device that lost power at any write of its judgement accepts nothing older.

Either a child is killed before each rename that an acceptance makes, or files are found
as a power cut may leave them: emptied, cut short, gone, or as they were before.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from quarterdeck_agent.update.floor import Floor, FloorFile
from quarterdeck_agent.update.trust import Accepted
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest
from quarterdeck_shared.reported import Slot
from tests.support.attacks import BUILT, World

WRITES = 8
"""Renames that the acceptance of a new release makes: a root, three roles of the cache,
and twice the two copies of the floor."""

CACHE = ("timestamp.json", "snapshot.json", "targets.json", "class-cam.json")
ROOT = "root_history/1.root.json"


def killed_at(world: World, envelope: bytes, write: int) -> bool:
    """Accept in a child that dies before its ``write``-th rename; did it die?"""
    child = os.fork()
    if child == 0:
        left = [write]

        def count(event: str, _: object) -> None:
            if event == "os.rename":
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

        sys.addaudithook(count)
        world.device().accept(envelope)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("write", range(WRITES + 1))
def test_a_device_killed_before_any_rename_keeps_its_floor_and_goes_on(
    tmp_path: Path, write: int
) -> None:
    world = World(tmp_path)
    first = world.assign(1)
    world.device().accept(first)
    second = world.now_served()
    world.release(2)
    envelope = world.assign(2, version=2)
    before = FloorFile(world.state()).load(BUILT)

    died = killed_at(world, envelope, write)

    after = FloorFile(world.state()).load(BUILT)
    assert died == (write < WRITES)
    assert after.sequence in {1, 2}
    assert after.releases["model"] == after.sequence
    assert all(after.versions[k] >= v for k, v in before.versions.items())
    accepted = world.device().accept(envelope)
    assert not list((world.state() / "metadata").glob("tmp*"))
    assert accepted.redelivery == (after.sequence == 2)
    world.serve_only(second)
    with pytest.raises(RejectedError) as refusal:
        world.device().accept(world.assign(3))
    assert refusal.value.code is Code.METADATA_ROLLBACK
    with pytest.raises(RejectedError):
        world.device().accept(first)


@pytest.mark.parametrize("write", range(12))
def test_a_new_device_killed_at_any_of_its_first_writes_begins_again(
    tmp_path: Path, write: int
) -> None:
    world = World(tmp_path)
    envelope = world.assign(1)

    assert killed_at(world, envelope, write) == (write < 11)

    assert world.device().accept(envelope).assignment.sequence == 1


# -- files as a power cut may leave them -----------------------------------------------


@dataclass(frozen=True)
class Lived:
    """A fleet with a device that has accepted a second release, and what came before.

    Attributes:
        old_files: What was served when the first release was the newest.
        young: The device's folder at that time.
        grown: Its folder now.
    """

    world: World
    old_files: dict[str, bytes]
    old_envelope: bytes
    young: Path
    grown: Path

    @property
    def floor(self) -> Floor:
        return FloorFile(self.grown).load(BUILT)


@pytest.fixture(scope="module")
def lived() -> Iterator[Lived]:
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.rotate()
        world.repository.renew(world.clock.now())
        old_envelope = world.assign(1)
        world.device().accept(old_envelope)
        old_files = world.now_served()
        young = world.folder / "young"
        shutil.copytree(world.state(), young, symlinks=True)
        world.clock.forward(hours=1)
        world.release(2)
        world.permit(1, "")
        world.device().accept(world.assign(2, version=2))
        yield Lived(world, old_files, old_envelope, young, world.state())


Damage = Callable[[Path, Path], None]
"""Called with the file, and the same file as it was before."""


def emptied(file: Path, _: Path) -> None:
    file.write_bytes(b"")


def cut_to(share: float) -> Damage:
    def cut(file: Path, _: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data[: max(1, int(len(data) * share))])

    return cut


def one_byte_short(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def zeroed(file: Path, _: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def gone(file: Path, _: Path) -> None:
    file.unlink()


def older(file: Path, before: Path) -> None:
    file.write_bytes(before.read_bytes())


DAMAGES: dict[str, Damage] = {
    "emptied": emptied,
    "one byte": cut_to(0),
    "cut in half": cut_to(0.5),
    "one byte short": one_byte_short,
    "zeroed": zeroed,
    "gone": gone,
    "older": older,
}
SINGLY = [(name,) for name in (*CACHE, ROOT)]
TOGETHER: list[tuple[str, ...]] = [(), CACHE, (*CACHE, ROOT)]


def damaged(lived: Lived, state: Path, names: tuple[str, ...], damage: Damage) -> None:
    for name in names:
        file, before = state / name, lived.young / name
        if not file.is_symlink() or file.exists():
            damage(file, before)


def refused(world: World, envelope: bytes, state: str, slot: Slot | None) -> Code:
    with pytest.raises(RejectedError) as caught:
        world.device(state=state, running=slot).accept(envelope)
    return caught.value.code


def stays_grown(lived: Lived, state: str, *, slot: Slot | None = None) -> None:
    """Assert that nothing older is accepted, and that honest news is."""
    world = lived.world
    world.serve_only(lived.old_files)
    code = refused(world, world.assign(3, version=1), state, slot)
    assert code is Code.METADATA_ROLLBACK
    world.serve_honestly()
    code = refused(world, lived.old_envelope, state, slot)
    assert code is Code.ASSIGNMENT_REPLAYED
    code = refused(world, world.assign(3, version=1), state, slot)
    assert code is Code.RELEASE_DOWNGRADE
    floor = FloorFile(world.state(state)).load(BUILT)
    assert floor.time == lived.floor.time
    assert floor.releases == {"model": 2}
    assert floor.versions == lived.floor.versions
    envelope = world.assign(3, version=2)
    trust = world.device(state=state, running=slot)
    assert isinstance(trust.accept(envelope), Accepted)


@pytest.mark.parametrize("floor_damage", [None, *DAMAGES])
@pytest.mark.parametrize("cache_damage", DAMAGES)
def test_no_damage_to_the_cache_and_to_one_copy_of_the_floor_lets_anything_older_in(
    lived: Lived, cache_damage: str, floor_damage: str | None
) -> None:
    copies = ("floor.json", "floor.copy.json") if floor_damage else ("floor.json",)
    for copy in copies:
        for names in TOGETHER if floor_damage else [*TOGETHER, *SINGLY]:
            name = f"{cache_damage} {floor_damage} {copy} {len(names)} {names[:1]}"
            state = lived.world.state(name.replace("/", "-"))
            shutil.copytree(lived.grown, state, symlinks=True)
            under = tuple(f"metadata/{it}" for it in names)
            damaged(lived, state, under, DAMAGES[cache_damage])
            if floor_damage is not None:
                damaged(lived, state, (copy,), DAMAGES[floor_damage])

            stays_grown(lived, state.name)

            assert (state / copy).read_bytes() == (state / "floor.json").read_bytes()
            shutil.rmtree(state)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_brought_again(lived: Lived, damage: str) -> None:
    state = lived.world.state(f"index {damage}")
    shutil.copytree(lived.grown, state, symlinks=True)
    (index,) = (state / "indexes").iterdir()
    (before,) = (lived.young / "indexes").iterdir()
    DAMAGES[damage](index, before)

    stays_grown(lived, state.name)


@pytest.mark.parametrize("first", [name for name in DAMAGES if name != "older"])
@pytest.mark.parametrize("second", [name for name in DAMAGES if name != "older"])
def test_a_floor_of_which_both_copies_are_damaged_refuses_everything(
    lived: Lived, first: str, second: str
) -> None:
    world = lived.world
    state = world.state(f"floor {first} {second}")
    shutil.copytree(lived.grown, state, symlinks=True)
    DAMAGES[first](state / "floor.json", Path())
    DAMAGES[second](state / "floor.copy.json", Path())

    for served in (lived.old_files, world.now_served()):
        world.serve_only(served)
        code = refused(world, world.assign(3, version=2), state.name, None)
        assert code is Code.FLOOR_DAMAGED
    world.serve_honestly()


def test_a_device_that_runs_something_and_has_lost_its_floor_and_cache_is_not_new(
    lived: Lived,
) -> None:
    slot = Slot(digest="a" * 64, release="model@2")
    world = lived.world
    world.serve_only(lived.old_files)

    code = refused(world, world.assign(3, version=1), "nothing left", slot)

    assert code is Code.FLOOR_DAMAGED
    world.serve_honestly()


def test_a_cache_from_before_beside_a_floor_of_now_is_brought_up_to_date(
    lived: Lived,
) -> None:
    state = lived.world.state("old cache")
    shutil.copytree(lived.young, state, symlinks=True)
    for name in ("floor.json", "floor.copy.json"):
        shutil.copy(lived.grown / name, state / name)

    stays_grown(lived, state.name)


@pytest.mark.parametrize("name", ["floor.json.new", "floor.copy.json.new"])
def test_a_stray_file_of_an_interrupted_write_means_nothing(
    lived: Lived, name: str
) -> None:
    state = lived.world.state(f"stray {name}")
    shutil.copytree(lived.grown, state, symlinks=True)
    shutil.copy(lived.young / "floor.json", state / name)

    stays_grown(lived, state.name)


def test_a_floor_of_an_earlier_version_is_still_a_floor(lived: Lived) -> None:
    floor = lived.floor
    state = lived.world.state("version 1")
    first = floor.model_dump(mode="json", exclude={"releases"}) | {"v": 1}
    body = json.dumps(first).encode()
    state.mkdir(parents=True)
    (state / "floor.json").write_bytes(digest(body).encode() + b"\n" + body)
    lived.world.serve_only(lived.old_files)

    code = refused(lived.world, lived.world.assign(3, version=1), state.name, None)

    assert code is Code.METADATA_ROLLBACK
    assert FloorFile(state).load(BUILT - timedelta(days=1)).sequence == 2
    lived.world.serve_honestly()
