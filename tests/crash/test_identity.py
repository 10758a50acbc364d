"""A device killed at any write of its enrolment or renewal is whole afterwards."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from quarterdeck_agent.status import read_status
from tests.support.enrolling import Fleet, certificate, command, running_fleet

pytestmark = pytest.mark.asyncio(loop_scope="module")
MOMENTS = 12
"""More than there are changes of names in either."""

PATIENCE_S = 40
SHORT = timedelta(seconds=120)
"""A life of which two thirds are over at once, because certificates are backdated."""

KILLED = f"""
import os, sys

WORDS = "identity", "seal.key", "token", "claim.pem"

def count(event, arguments, left=[int(os.environ["MOMENT"])]):
    if event not in ("os.rename", "os.remove"):
        return
    if not any(word in str(arguments[0]) for word in WORDS):
        return
    if left[0] == 0:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    left[0] -= 1

sys.addaudithook(count)
from quarterdeck_agent.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    async with running_fleet(folder, lives=SHORT) as fleet:
        yield fleet


async def killed_at(moment: int, bundle: Path, verb: str) -> bool:
    """Run a command that dies before its ``moment``-th change of a name; did it?"""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", KILLED, verb, "--config", str(bundle / "agent.toml")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "MOMENT": str(moment)},
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while process.returncode is None and not _renewed(bundle):
                await asyncio.sleep(0.05)
    finally:
        if process.returncode is None:
            await asyncio.sleep(0.5)
        if process.returncode is None:
            process.terminate()
        await process.wait()
    return process.returncode == -signal.SIGKILL


def _renewed(bundle: Path) -> bool:
    """Return whether an agent is in with a certificate after the first."""
    shown = read_status(bundle / "state")
    identity = shown.get("identity")
    in_use = isinstance(identity, dict) and int(identity["generation"]) > 1
    return bool(shown.get("connected")) and in_use


async def test_killed_before_any_change_of_a_name_a_machine_enrols_in_the_end(
    fleet: Fleet,
) -> None:
    bundles = [fleet.newcomer() for _ in range(MOMENTS)]

    died = await asyncio.gather(
        *(killed_at(n, bundle, "enrol") for n, bundle in enumerate(bundles))
    )

    assert died == sorted(died, reverse=True)
    assert died[7]  # two keys, the certificate, token, claim, and the identity itself
    assert not died[-1]
    again = await asyncio.gather(*(command(bundle, "enrol") for bundle in bundles))
    for bundle, done in zip(bundles, again, strict=True):
        assert done.returncode == 0, done.stderr
        used = certificate(bundle)
        assert used is not None
        assert used.generation == 1  # a lost answer was given again, not another one
        left = {path.name for path in bundle.iterdir()}
        assert not left & {"token", "claim.pem"}
        assert not (bundle / "state" / "identity.new.pem").exists()


async def test_killed_before_any_change_of_a_name_a_device_renews_in_the_end(
    fleet: Fleet,
) -> None:
    bundles = [fleet.newcomer() for _ in range(6)]
    await asyncio.gather(*(command(bundle, "enrol") for bundle in bundles))

    died = await asyncio.gather(
        *(killed_at(n, bundle, "run") for n, bundle in enumerate(bundles))
    )

    assert died == [True] * 5 + [False]  # a key, its certificate, and the identity
    for bundle in bundles:
        assert certificate(bundle) is not None
        fleet.run(bundle)
    async with asyncio.timeout(PATIENCE_S):
        while not all(_renewed(bundle) for bundle in bundles):
            await asyncio.sleep(0.1)
