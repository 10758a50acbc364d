"""An operator's certificate opens the controller's doors, and none of the broker's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.brokers import yard_of
from tests.support.doors import ADMISSION, Doors

KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


@pytest.fixture(params=KINDS)
async def doors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Doors]:
    made = Doors(await yard_of(str(request.param), tmp_path, ADMISSION, revoked=()))
    identity = made.yard.authority.issue_operator("ada", days=1)
    made.endpoints["ada"] = made.yard.endpoint("at-ada", identity)
    yield made
    await made.end()


async def test_an_operator_publishes_nothing(doors: Doors) -> None:
    assert await doors.heard_from("ada") == set()


async def test_an_operator_reads_nothing(doors: Doors) -> None:
    assert await doors.heard_by("ada", None) == set()
