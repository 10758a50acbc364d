"""One hostile broker for all attacks, and a device of its own for each."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.hostile import Ground, hostile_ground
from tests.support.siege import Siege


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ground(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Ground]:
    folder = tmp_path_factory.mktemp("ground")
    async with hostile_ground(folder) as ground:
        yield ground


@pytest_asyncio.fixture(loop_scope="session")
async def siege(ground: Ground) -> AsyncIterator[Siege]:
    siege = Siege(ground, await ground.take())
    yield siege
    ground.tamper = None
    ground.withheld.clear()
    siege.device.end()
