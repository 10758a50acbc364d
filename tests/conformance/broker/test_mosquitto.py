"""A choice of the attacks through mosquitto: no verdict may depend on the broker."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from securesystemslib.signer import CryptoSigner

from quarterdeck_shared.codes import Code
from tests.support.attacks import sealed
from tests.support.brokers import until
from tests.support.hostile import Ground, hostile_ground
from tests.support.siege import Siege

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.mosquitto,
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mosquitto(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Ground]:
    async with hostile_ground(tmp_path_factory.mktemp("ground"), "mosquitto") as it:
        yield it


@pytest_asyncio.fixture(loop_scope="session")
async def siege(mosquitto: Ground) -> AsyncIterator[Siege]:
    siege = Siege(mosquitto, await mosquitto.take())
    yield siege
    mosquitto.tamper = None
    siege.device.end()


async def test_an_assignment_signed_by_the_attacker(siege: Siege) -> None:
    await siege.send(sealed(siege.payload(), CryptoSigner.generate_ed25519()))

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.heals()


async def test_the_stolen_assignment_of_another_device(siege: Siege) -> None:
    await siege.send(siege.assign(device="cam-139"))

    await siege.refuses(Code.WRONG_DEVICE)
    await siege.heals()


async def test_a_replayed_assignment(siege: Siege) -> None:
    old = siege.assign(5)
    await siege.accepts(6)
    await siege.send(old)

    await siege.refuses(Code.ASSIGNMENT_REPLAYED)
    await siege.heals()


async def test_rollback_of_the_whole_repository(siege: Siege) -> None:
    siege.world.serve_only(siege.ground.old)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_endless_data_for_the_timestamp(siege: Siege) -> None:
    siege.world.broker.instead["timestamp.json"] = b"{" + b" " * (4 << 20)
    await siege.send(siege.assign())

    await siege.refuses(Code.TOO_LARGE)
    await siege.heals()


async def test_tampered_chunks(siege: Siege) -> None:
    siege.ground.tamper = lambda _artifact, _number, chunk: chunk[::-1] + b"!"
    await siege.send(siege.assign())

    await siege.refuses(Code.CHUNK_INVALID)
    await siege.heals()


async def test_a_device_comes_back_when_its_secret_client_id_was_stolen(
    siege: Siege,
) -> None:
    thief = siege.ground.enrol()
    client = siege.device.states[-1].client
    async with siege.ground.session(thief.identity, client=client):
        await siege.runs("model@1")

    await until(lambda: siege.device.states[-1].online, "the device back")
    await siege.heals()
