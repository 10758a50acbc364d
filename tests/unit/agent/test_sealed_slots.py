"""Sealed artifacts in slots: only the right device opens them, and only in memory."""

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from quarterdeck_agent.update.slots import CONTENT_KEY, Slots
from quarterdeck_agent.update.unseal import Opener
from quarterdeck_controller.repository.seal import Seals, key_name, seal, unseal
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index, PartName, Plain, digest
from quarterdeck_shared.sealing import is_sealed
from tests.support.installed import fill, make_index

MODEL, GOLDEN = b"model " * 40_000, b"golden " * 100
FILES: Mapping[PartName, bytes] = {"model.onnx": MODEL, "golden.npz": GOLDEN}


@dataclass
class Device:
    """A device with its slots, and its public seal key."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.private = X25519PrivateKey.generate()
        self.file = self.folder / "seal.key"
        self.file.write_bytes(self.private.private_bytes_raw())
        opener = Opener(self.name, self.file)
        self.slots = Slots(self.folder, SystemClock(), opener)
        self.slots.prepare()

    @property
    def seal_key(self) -> bytes:
        return self.private.public_key().public_bytes_raw()


@dataclass
class Sealed:
    """An artifact as it is published, and the controller's keys."""

    index: Index
    files: Mapping[PartName, bytes]
    seals: Seals

    @property
    def artifact(self) -> str:
        return digest(self.index.encode())

    def key_for(self, device: Device, name: str | None = None) -> bytes:
        return self.seals.wrap(
            self.index, device=name or device.name, seal_key=device.seal_key
        )


def sealed_artifact(folder: Path) -> Sealed:
    sealed = seal(FILES, chunk_bytes=65536)
    plain = make_index(dict(FILES.items()))
    index = plain.model_copy(update={"parts": sealed.parts})
    seals = Seals(folder / "seals")
    seals.keep(key_name(index), sealed.key.encode())
    return Sealed(index, sealed.files, seals)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device("device-1", tmp_path / "device-1")


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return sealed_artifact(tmp_path)


def install(device: Device, sealed: Sealed) -> None:
    key = sealed.key_for(device)
    fill(
        device.slots.stage(sealed.artifact, sealed.index, key),
        dict(sealed.files.items()),
    )


def test_the_device_it_is_assigned_to_opens_it(device: Device, sealed: Sealed) -> None:
    install(device, sealed)

    with device.slots.open(sealed.artifact, sealed.index, "model.onnx") as file:
        opened = file.read()

    assert is_sealed(sealed.index)
    assert opened == MODEL


def test_nothing_plain_is_on_the_disk(device: Device, sealed: Sealed) -> None:
    install(device, sealed)
    device.slots.open(sealed.artifact, sealed.index, "model.onnx").close()

    on_disk = [file.read_bytes() for file in device.folder.rglob("*") if file.is_file()]

    assert len(on_disk) >= 4
    secrets = (b"model model", b"golden golden")
    assert not any(secret in data for data in on_disk for secret in secrets)


def test_the_plain_file_in_memory_cannot_be_changed(
    device: Device, sealed: Sealed
) -> None:
    install(device, sealed)

    with device.slots.open(sealed.artifact, sealed.index, "model.onnx") as file:
        seals = fcntl.fcntl(file.fileno(), fcntl.F_GET_SEALS)
        with pytest.raises(PermissionError):
            file.write(b"other")

    assert seals & fcntl.F_SEAL_WRITE
    assert seals & fcntl.F_SEAL_SEAL


def test_another_device_cannot_use_the_key_in_a_stolen_assignment(
    tmp_path: Path, device: Device, sealed: Sealed
) -> None:
    thief = Device("device-2", tmp_path / "device-2")
    stolen = sealed.key_for(device)

    with pytest.raises(RejectedError, match="not for this device") as refused:
        thief.slots.stage(sealed.artifact, sealed.index, stolen)

    assert refused.value.code is Code.SEAL_INVALID


def test_a_key_is_bound_to_the_device_id_too(device: Device, sealed: Sealed) -> None:
    misnamed = sealed.key_for(device, name="device-9")

    with pytest.raises(RejectedError) as refused:
        device.slots.stage(sealed.artifact, sealed.index, misnamed)

    assert refused.value.code is Code.SEAL_INVALID


def test_the_key_of_another_artifact_does_not_open_this_one(
    tmp_path: Path, device: Device, sealed: Sealed
) -> None:
    other = sealed_artifact(tmp_path)

    with pytest.raises(RejectedError) as refused:
        device.slots.stage(sealed.artifact, sealed.index, other.key_for(device))

    assert refused.value.code is Code.SEAL_INVALID


@pytest.mark.parametrize("wrapped", [None, b"", b"x", b"\0" * 122])
def test_an_assignment_without_a_good_key_is_refused_before_any_fetch(
    device: Device, sealed: Sealed, wrapped: bytes | None
) -> None:
    with pytest.raises(RejectedError) as refused:
        device.slots.stage(sealed.artifact, sealed.index, wrapped)

    assert refused.value.code is Code.SEAL_INVALID
    assert device.slots.folders() == ()


@pytest.mark.parametrize("damage", ["lost", "short", "other"])
def test_a_lost_seal_key_is_told_and_not_a_crash(
    device: Device, sealed: Sealed, damage: str
) -> None:
    install(device, sealed)
    match damage:
        case "lost":
            device.file.unlink()
        case "short":
            device.file.write_bytes(b"123")
        case _:
            other = X25519PrivateKey.generate()
            device.file.write_bytes(other.private_bytes_raw())

    with pytest.raises(RejectedError) as refused:
        device.slots.open(sealed.artifact, sealed.index, "model.onnx")

    assert refused.value.code is Code.SEAL_INVALID


def test_changed_sealed_bytes_are_refused_before_they_are_opened(
    device: Device, sealed: Sealed
) -> None:
    install(device, sealed)
    file = device.slots.folder(sealed.artifact) / "model.onnx"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)

    with pytest.raises(RejectedError) as refused:
        device.slots.open(sealed.artifact, sealed.index, "model.onnx")

    assert refused.value.code is Code.ARTIFACT_INVALID


@pytest.mark.parametrize("length", [1, len(MODEL) - 1, len(MODEL) + 1])
def test_a_part_that_holds_another_length_than_signed_is_refused(
    device: Device, sealed: Sealed, length: int
) -> None:
    parts = tuple(
        part.model_copy(update={"plain": Plain(length=length, sha256=digest(MODEL))})
        for part in sealed.index.parts
    )
    lying = Sealed(
        sealed.index.model_copy(update={"parts": parts}), sealed.files, sealed.seals
    )
    install(device, lying)

    with pytest.raises(RejectedError) as refused:
        device.slots.open(lying.artifact, lying.index, "model.onnx")

    assert refused.value.code is Code.SEAL_INVALID


def test_a_new_assignment_brings_a_new_key_for_the_same_artifact(
    device: Device, sealed: Sealed
) -> None:
    install(device, sealed)
    kept = device.slots.folder(sealed.artifact) / CONTENT_KEY
    before = kept.read_bytes()

    device.slots.stage(sealed.artifact, sealed.index, sealed.key_for(device))

    assert kept.read_bytes() != before
    device.slots.open(sealed.artifact, sealed.index, "golden.npz").close()


def test_emptying_a_slot_for_room_keeps_what_opens_it(
    device: Device, sealed: Sealed
) -> None:
    install(device, sealed)

    device.slots.empty(sealed.artifact)
    fill(device.slots.folder(sealed.artifact), dict(sealed.files.items()))

    with device.slots.open(sealed.artifact, sealed.index, "golden.npz") as file:
        assert file.read() == GOLDEN


def test_the_controller_opens_what_it_sealed_and_refuses_what_it_did_not(
    tmp_path: Path, sealed: Sealed
) -> None:
    part = sealed.index.part("model.onnx")
    key = sealed.seals.key(sealed.index)
    other = sealed_artifact(tmp_path)

    assert unseal(part, sealed.files["model.onnx"], key) == MODEL
    for data, used in (
        (sealed.files["model.onnx"][:-1], key),
        (sealed.files["model.onnx"], "AGE-SECRET-KEY-1"),
        (other.files["model.onnx"], other.seals.key(other.index)[:-1]),
        (sealed.files["golden.npz"], key),
    ):
        with pytest.raises(RejectedError) as refused:
            unseal(part, data, used)
        assert refused.value.code is Code.SEAL_INVALID


def test_a_home_that_lost_the_key_of_an_artifact_says_so(
    device: Device, sealed: Sealed
) -> None:
    for file in sealed.seals.folder.iterdir():
        file.unlink()

    with pytest.raises(RejectedError) as refused:
        sealed.key_for(device)

    assert refused.value.code is Code.NOT_FOUND


def test_a_device_whose_seal_key_is_none_is_told(sealed: Sealed) -> None:
    with pytest.raises(RejectedError) as refused:
        sealed.seals.wrap(sealed.index, device="device-1", seal_key=b"short")

    assert refused.value.code is Code.KEY_UNUSABLE


def test_only_the_owner_may_read_the_keys_of_artifacts(sealed: Sealed) -> None:
    modes = [file.stat().st_mode & 0o077 for file in sealed.seals.folder.iterdir()]

    assert modes == [0]
