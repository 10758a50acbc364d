"""Attacks on assignments, through the broker, on a running agent."""

import pytest

from quarterdeck_shared.codes import Code
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_honest_assignment_gets_through(siege: Siege) -> None:
    await siege.heals()

    assert siege.update.code is None


async def test_an_assignment_that_nobody_signed_is_refused(siege: Siege) -> None:
    await siege.send(b'{"payload": "junk"}')

    await siege.refuses(Code.MALFORMED)
    await siege.heals()
