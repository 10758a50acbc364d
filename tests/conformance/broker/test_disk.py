"""Attacks on what is on the device's disk, and on its memory of what it accepted."""

import itertools
import shutil

import pytest

from quarterdeck_shared.codes import Code
from tests.support.brokers import until
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")

CACHE = ("timestamp.json", "snapshot.json", "targets.json", "class-cam.json")


async def test_a_model_tampered_with_while_the_agent_was_off_is_never_served(
    siege: Siege,
) -> None:
    await siege.device.stop()
    siege.spoil("model@1", "model.onnx")
    siege.device.start()

    await siege.serves_nothing()
    await siege.heals()


async def test_another_model_in_the_place_of_the_active_one_is_never_served(
    siege: Siege,
) -> None:
    await siege.device.stop()
    other = siege.part("model@2", "model.onnx")
    siege.slot("model@1").joinpath("model.onnx").write_bytes(other)
    siege.device.start()

    await siege.serves_nothing()
    await siege.heals()


async def test_an_index_tampered_with_on_the_disk_is_never_served(
    siege: Siege,
) -> None:
    await siege.device.stop()
    siege.spoil("model@1", "index.json")
    siege.device.start()

    await siege.serves_nothing()
    await siege.heals()


async def test_a_model_tampered_with_while_it_runs_goes_on_as_it_was_loaded(
    siege: Siege,
) -> None:
    siege.spoil("model@1", "model.onnx")

    await siege.runs("model@1")
    await siege.heals()


@pytest.mark.parametrize("part", ["model.onnx", "golden.npz"])
async def test_a_slot_tampered_with_before_it_is_proven_is_fetched_again(
    siege: Siege, part: str
) -> None:
    await siege.heals(20)
    await siege.device.stop()
    siege.spoil("model@1", part)
    siege.permit_downgrade("model@1")
    siege.device.start()
    await siege.send(siege.first(30))

    await siege.outcome(30, "committed")
    await siege.runs("model@1")
    assert siege.slot("model@1").joinpath(part).read_bytes() == (
        siege.part("model@1", part)
    )


async def test_a_prepared_slot_of_an_attacker_is_not_believed(siege: Siege) -> None:
    await siege.device.stop()
    variant = siege.world.catalog.release("model@2").variants["cam"]
    folder = siege.device.state / "slots" / variant.artifact
    folder.mkdir()
    (folder / "index.json").write_bytes(variant.index.encode())
    for part in variant.index.parts:
        (folder / part.name).write_bytes(bytes(part.length))
    siege.device.start()

    await siege.heals()
    assert siege.part("model@2", "model.onnx") == (
        siege.slot("model@2").joinpath("model.onnx").read_bytes()
    )


async def test_links_in_a_prepared_slot_lead_nowhere(siege: Siege) -> None:
    await siege.device.stop()
    artifact = siege.world.catalog.release("model@2").variants["cam"].artifact
    folder = siege.device.state / "slots" / artifact
    folder.mkdir()
    victim = siege.device.bundle / "root.json"
    before = victim.read_bytes()
    (folder / "golden.npz").symlink_to(victim)
    siege.device.start()

    await siege.heals()
    assert victim.read_bytes() == before


async def test_a_record_that_points_at_another_slot_installs_nothing(
    siege: Siege,
) -> None:
    await siege.device.stop()
    first = siege.world.catalog.release("model@1").variants["cam"].artifact
    for name in ("update.json", "update.copy.json"):
        file = siege.device.state / name
        file.write_bytes(file.read_bytes().replace(first.encode(), b"ab" * 32))
    siege.device.start()

    await siege.serves_nothing()
    await siege.heals()


# -- power cuts, and then an old repository ------------------------------------------


@pytest.mark.parametrize(
    "names",
    [(it,) for it in CACHE] + [CACHE[:2], CACHE[:3], CACHE],
    ids=lambda names: "+".join(it.removesuffix(".json") for it in names),
)
async def test_a_cache_emptied_by_a_power_cut_lets_no_older_repository_in(
    siege: Siege, names: tuple[str, ...]
) -> None:
    await siege.device.stop()
    for name in names:
        (siege.device.state / "trust/metadata" / name).write_bytes(b"")
    siege.world.serve_only(siege.ground.old)
    await siege.send(siege.first(10))
    siege.device.start()

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.heals()


@pytest.mark.parametrize("name", ["floor.json", "floor.copy.json"])
async def test_one_copy_of_the_floor_is_enough(siege: Siege, name: str) -> None:
    await siege.device.stop()
    (siege.device.state / "trust" / name).write_bytes(b"")
    shutil.rmtree(siege.device.state / "trust/metadata")
    siege.world.serve_only(siege.ground.old)
    await siege.send(siege.first(10))
    siege.device.start()

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_a_floor_of_which_both_copies_are_damaged_refuses_everything(
    siege: Siege,
) -> None:
    await siege.device.stop()
    for name, size in (("floor.json", 0), ("floor.copy.json", 40)):
        file = siege.device.state / "trust" / name
        file.write_bytes(file.read_bytes()[:size])
    await siege.send(siege.assign())
    siege.device.start()

    await siege.refuses(Code.FLOOR_DAMAGED)


@pytest.mark.parametrize(
    "kept", list(itertools.product([0, 10], [0, 10])), ids=lambda kept: f"{kept}"
)
async def test_a_record_cut_off_in_both_copies_is_made_from_the_slots(
    siege: Siege, kept: tuple[int, int]
) -> None:
    await siege.device.stop()
    for name, size in zip(("update.json", "update.copy.json"), kept, strict=True):
        file = siege.device.state / name
        file.write_bytes(file.read_bytes()[:size])
    siege.device.start()

    await siege.runs("model@1")
    await siege.heals()


# -- what came with the enrolment ----------------------------------------------------


async def test_the_root_of_another_fleet_believes_nothing_of_this_one(
    siege: Siege,
) -> None:
    await siege.device.stop()
    shutil.rmtree(siege.device.state / "trust/metadata")
    (siege.device.bundle / "root.json").write_bytes(siege.foreign_root())
    await siege.send(siege.assign())
    siege.device.start()

    await siege.refuses(Code.METADATA_INVALID, Code.METADATA_ROLLBACK)


async def test_the_identity_of_another_device_is_not_taken_for_ones_own(
    siege: Siege,
) -> None:
    await siege.device.stop()
    siege.swap_identity("cam-139")
    siege.device.start()

    await until(lambda: "of cam-139, not" in siege.device.log(), "the refusal")
    # it goes on serving, and speaks to nobody under another's name
    await until(lambda: siege.status().get("serving"), "the model at work")
    assert "certificate_invalid" in siege.device.log()
    assert not siege.status()["connected"]
    assert "Traceback" not in siege.device.log()
