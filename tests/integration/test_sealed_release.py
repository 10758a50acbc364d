"""A sealed release from its making to the one device that may read it."""

import asyncio
from pathlib import Path

import pytest

from quarterdeck_agent.status import read_status
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.rollout.create import create
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.sealing import SEALED_PARTS, is_sealed
from tests.support.brokers import until
from tests.support.enrolling import CLASS, Fleet, running_fleet
from tests.support.releases import (
    ManualClock,
    copied_home,
    model_bytes,
    write_variants,
)

CLOCK = SystemClock()
SECRET = model_bytes(1 / 64)[200:400]
"""Bytes that every copy of the plain model holds."""


def release_sealed(fleet: Fleet) -> str:
    variants = write_variants(
        fleet.folder / "variants", classes=(CLASS,), home=fleet.home
    )
    made = create_release(fleet.home, variants, "model", 1, CLOCK, sealed=True)
    with fleet.records() as records:
        policy = Policy.parse(
            {"soak_s": 0.2, "deadline_s": 60, "probation_s": 0.2, "hold_s": 60}
        )
        create(records, Catalog(fleet.home), made.id, "all", policy, now=CLOCK.now())
    return made.variants[CLASS].artifact


def runs(bundle: Path, artifact: str) -> bool:
    shown = read_status(bundle / "state")
    active = shown.get("active")
    if not (shown.get("serving") and isinstance(active, dict)):
        return False
    return bool(active["digest"] == artifact)


def holds_secret(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if SECRET in file.read_bytes()]


async def test_only_memory_of_the_device_it_is_assigned_to_holds_a_sealed_model(
    tmp_path: Path,
) -> None:
    async with running_fleet(tmp_path) as fleet:
        bundle = fleet.newcomer()
        agent = fleet.run(bundle)
        artifact = await asyncio.to_thread(release_sealed, fleet)
        await until(lambda: runs(bundle, artifact), "it serves", timeout_s=40)
        published = holds_secret(fleet.home.path)
        agent.kill()
        agent.wait()
        await fleet.stop()

        again = fleet.run(bundle)
        await until(lambda: runs(bundle, artifact), "it serves again", timeout_s=20)

        assert again.poll() is None
        assert len(holds_secret(fleet.folder / "variants")) == 1
        assert published == []
        assert holds_secret(bundle) == []


def test_the_same_variants_again_are_the_sealed_release_that_is_there(
    tmp_path: Path,
) -> None:
    home = copied_home(tmp_path / "home")
    variants = write_variants(tmp_path / "variants", home=home)
    first = create_release(home, variants, "model", 1, ManualClock(), sealed=True)

    again = create_release(home, variants, "model", 1, ManualClock(), sealed=True)

    assert again.variants["cam"].artifact == first.variants["cam"].artifact


def test_other_variants_under_the_name_of_a_sealed_release_are_refused(
    tmp_path: Path,
) -> None:
    home = copied_home(tmp_path / "home")
    variants = write_variants(tmp_path / "variants", home=home)
    create_release(home, variants, "model", 1, ManualClock(), sealed=True)
    other = write_variants(tmp_path / "other", home=home, weight=1 / 63)

    with pytest.raises(RejectedError) as refused:
        create_release(home, other, "model", 1, ManualClock(), sealed=True)

    assert refused.value.code is Code.CONFLICT


def test_what_was_measured_of_a_sealed_model_is_no_secret(tmp_path: Path) -> None:
    home = copied_home(tmp_path / "home")
    variants = write_variants(tmp_path / "variants", home=home)

    made = create_release(home, variants, "model", 1, ManualClock(), sealed=True)

    variant = made.variants["cam"]
    sealed = {part.name for part in variant.index.parts if part.plain is not None}
    assert is_sealed(variant.index)
    assert sealed == set(SEALED_PARTS)
    assert (
        Catalog(home).read_part(variant, "evaluation.json")
        == (variants / "cam" / "evaluation.json").read_bytes()
    )
    assert [file.stat().st_mode & 0o077 for file in home.seals.iterdir()] == [0, 0]
