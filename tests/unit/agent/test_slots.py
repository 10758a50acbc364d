"""Slots and the record on a real disk."""

from pathlib import Path

import pytest

from quarterdeck_agent.update.record import Record
from quarterdeck_agent.update.slots import COPY, RECORD, Slots
from quarterdeck_agent.update.unseal import Opener
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.reported import Slot
from tests.support.installed import install


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    slots = Slots(tmp_path, SystemClock(), Opener("device-1", tmp_path / "seal.key"))
    slots.prepare()
    return slots


def running(artifact: str, step: int = 5) -> Record:
    slot = Slot(digest=artifact, release="toy@1")
    return Record(step=step, active=slot, committed=True, sequence=3)


def test_a_new_device_has_an_empty_record_and_no_trouble(slots: Slots) -> None:
    restored = slots.load()

    assert restored.record == Record()
    assert restored.trouble is None


@pytest.mark.parametrize("name", [RECORD, COPY])
@pytest.mark.parametrize("damage", [b"", b"{", b'{"v":1,"step":-1}', b"\xff" * 99])
def test_one_damaged_record_is_read_from_the_other(
    slots: Slots, tmp_path: Path, name: str, damage: bytes
) -> None:
    record = running(install(slots, b"m", b"g"))
    slots.save(record)
    (tmp_path / name).write_bytes(damage)

    restored = slots.load()

    assert restored.record == record
    assert name in (restored.trouble or "")


def test_with_every_record_lost_the_committed_model_still_serves(
    slots: Slots, tmp_path: Path
) -> None:
    committed, staged = install(slots, b"m", b"g"), install(slots, b"n", b"g")
    record = running(committed)
    slots.save(record)
    slots.mark_committed(record)
    for name in (RECORD, COPY):
        (tmp_path / name).write_bytes(b"lost")

    restored = slots.load()

    assert restored.record.active == record.active
    assert restored.record.committed
    assert restored.record.step > record.step
    assert staged not in [slot.digest for slot in restored.record.slots]


def test_a_marked_slot_whose_bytes_have_changed_does_not_serve(
    slots: Slots, tmp_path: Path
) -> None:
    artifact = install(slots, b"m", b"g")
    slots.mark_committed(running(artifact))
    (slots.folder(artifact) / "model.onnx").write_bytes(b"x")
    (tmp_path / RECORD).write_bytes(b"lost")

    restored = slots.load()

    assert restored.record.active is None


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "index.json"])
def test_a_slot_with_wrong_bytes_is_found_out(slots: Slots, name: str) -> None:
    artifact = install(slots, b"mmm", b"ggg")
    (slots.folder(artifact) / name).write_bytes(b"xxx")

    with pytest.raises(RejectedError) as caught:
        slots.verify(artifact)

    assert caught.value.code is Code.ARTIFACT_INVALID
    assert name in caught.value.detail


def test_only_unnamed_slots_are_swept(slots: Slots) -> None:
    kept, gone = install(slots, b"m", b"g"), install(slots, b"n", b"g")

    slots.sweep(running(kept))

    assert [folder.name for folder in slots.folders()] == [kept]
    assert not slots.folder(gone).exists()


def test_emptying_a_slot_keeps_its_index(slots: Slots) -> None:
    artifact = install(slots, b"m", b"g")

    slots.empty(artifact)

    assert slots.index(artifact).length == 2
    assert [p.name for p in slots.folder(artifact).iterdir()] == ["index.json"]
