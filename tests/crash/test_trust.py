"""A device killed at any write of its judgement forgets nothing it had accepted."""

import os
import signal
import sys
from pathlib import Path

import pytest

from quarterdeck_agent.update.floor import FloorFile
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.attacks import BUILT, World

WRITES = 8
"""Renames that the acceptance of a new release makes: a root, three roles of the cache,
and twice the two copies of the floor."""


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


def test_a_new_device_killed_at_its_first_write_begins_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    envelope = world.assign(1)

    assert killed_at(world, envelope, 0)
    assert not world.device().accept(envelope).redelivery
