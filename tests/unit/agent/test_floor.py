"""The floor survives what may happen to its files, and never sinks."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_agent.update.floor import Floor, FloorFile
from quarterdeck_agent.update.verify import Seen, below
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import NOW

FLOOR = Floor(
    generation=0,
    time=NOW,
    root=3,
    online_keys="k",
    versions={"timestamp": 9, "snapshot": 7, "targets": 1, "class-cam": 2},
    sequence=12,
    payload_sha256="ab" * 32,
)


@pytest.fixture
def file(tmp_path: Path) -> FloorFile:
    return FloorFile(tmp_path / "trust")


def test_a_new_device_knows_only_when_it_was_built(file: FloorFile) -> None:
    floor = file.load(NOW)

    assert (floor.time, floor.sequence, floor.root, floor.versions) == (NOW, 0, 0, {})


def test_what_was_saved_is_loaded(file: FloorFile) -> None:
    saved = file.save(FLOOR)

    assert file.load(NOW - timedelta(days=1)) == saved
    assert saved == FLOOR.model_copy(update={"generation": 1})


def test_the_newer_of_two_good_copies_counts(file: FloorFile) -> None:
    file.save(FLOOR)
    older = (file.folder / "floor.json").read_bytes()
    newer = file.save(FLOOR.model_copy(update={"generation": 1, "sequence": 13}))
    (file.folder / "floor.copy.json").write_bytes(older)

    assert file.load(NOW) == newer


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 100, -1])
def test_a_cut_copy_is_noticed_and_mended(file: FloorFile, length: int) -> None:
    saved = file.save(FLOOR)
    copy = file.folder / "floor.json"
    whole = copy.read_bytes()
    copy.write_bytes(whole[:length])

    assert file.load(NOW) == saved
    assert copy.read_bytes() == whole


@pytest.mark.parametrize("rest", ["missing", "damaged"])
def test_when_no_copy_can_be_read_nothing_is_assumed(
    file: FloorFile, rest: str
) -> None:
    file.save(FLOOR)
    (file.folder / "floor.json").write_bytes(b"")
    copy = file.folder / "floor.copy.json"
    copy.unlink()
    if rest == "damaged":
        copy.write_bytes(b"0" * 64 + b"\n{}")

    with pytest.raises(RejectedError) as refusal:
        file.load(NOW)

    assert refusal.value.code is Code.FLOOR_DAMAGED


def test_a_copy_that_can_never_be_read_again_is_left_for_the_other(
    file: FloorFile,
) -> None:
    saved = file.save(FLOOR)
    (file.folder / "floor.copy.json").unlink()
    (file.folder / "floor.copy.json").mkdir()

    with pytest.raises(OSError, match="directory"):  # it cannot be mended, yet ...
        file.load(NOW)

    (file.folder / "floor.copy.json").rmdir()
    assert file.load(NOW) == saved


def test_a_device_that_has_lived_and_has_no_floor_is_refused(file: FloorFile) -> None:
    assert file.load(NOW).generation == 0

    with pytest.raises(RejectedError) as refusal:
        file.load(NOW, lived=True)

    assert refusal.value.code is Code.FLOOR_DAMAGED


def test_a_flipped_bit_is_noticed(file: FloorFile) -> None:
    file.save(FLOOR)
    for path in (file.folder / "floor.json", file.folder / "floor.copy.json"):
        path.write_bytes(path.read_bytes().replace(b'"sequence":12', b'"sequence":02'))

    with pytest.raises(RejectedError, match="digest"):
        file.load(NOW)


def seen(versions: dict[str, int], *, root: int = 3, keys: str = "k") -> Seen:
    return Seen(root, keys, {**FLOOR.versions, **versions}, issued=None, expires={})


@given(st.sampled_from(sorted(FLOOR.versions)), st.integers(1, 9))
def test_no_version_below_the_floor_passes(role: str, less: int) -> None:
    offered = FLOOR.versions[role] - less

    told = below(seen({role: offered}), FLOOR)

    assert told is not None
    assert str(offered) in told
    assert str(FLOOR.versions[role]) in told


@given(st.dictionaries(st.sampled_from(sorted(FLOOR.versions)), st.integers(0, 99)))
def test_versions_at_or_above_the_floor_pass(raised: dict[str, int]) -> None:
    versions = {role: FLOOR.versions[role] + more for role, more in raised.items()}

    assert below(seen(versions), FLOOR) is None


def test_a_role_that_vanished_lies_below_the_floor() -> None:
    offered = Seen(3, "k", {"timestamp": 99}, issued=None, expires={})

    assert below(offered, FLOOR) is not None


def test_new_online_keys_begin_anew_but_only_under_a_root_that_is_not_older() -> None:
    assert below(seen({"timestamp": 1}, root=4, keys="new"), FLOOR) is None
    assert below(seen({"timestamp": 99}, root=2, keys="old"), FLOOR) is not None
