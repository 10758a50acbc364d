"""What ``quarterdeck broker config`` writes, taken over by real brokers."""

import asyncio
import functools
import json
import random
import secrets
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quarterdeck_controller.broker import mosquitto, nats
from quarterdeck_controller.broker.handover import Kind, looking_ahead
from quarterdeck_controller.broker.port import Grant
from quarterdeck_controller.cli import build
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.authority import Authority, Identity
from quarterdeck_controller.identity.revocation import revoke
from quarterdeck_controller.store.records import Device
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.clock import SystemClock
from tests.support.brokers import device_identity, free_port, until

CLASS, DEVICE = "gateway", "device-1"
KINDS = [
    Kind.NATS,
    pytest.param(Kind.MOSQUITTO, marks=pytest.mark.mosquitto),
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    settings = Settings(
        fleet="test",
        classes=(CLASS,),
        broker=BrokerSettings(kind="external", port=free_port()),
        test=True,
    )
    clock = SystemClock()
    made = create_home(tmp_path / "home", settings, clock)
    with Store.open(made.database) as store, store.write() as records:
        records.devices.add(Device(DEVICE, CLASS, (), clock.now()))
    return made


def run(home: Home, *arguments: str) -> tuple[int, str]:
    given = ("broker", "config", *arguments, "--home", str(home.path))
    result = CliRunner().invoke(build(given), given)
    return result.exit_code, result.stdout


@asynccontextmanager
async def taken_over(
    home: Home, folder: Path, kind: Kind
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a broker as its operator would, from what was written."""
    shutil.copy(home.authority / "broker.key", folder)
    if kind is Kind.NATS:
        command = [str(nats.find_program()), "-c", str(folder / nats.CONFIG)]
    else:
        config = folder / mosquitto.CONFIG
        config.write_text("user root\n" + config.read_text())
        command = [str(mosquitto.find_program()), "-c", str(config)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


def bus_of(home: Home, folder: Path, identity: Identity) -> MqttBus:
    files = folder / "someone.pem", folder / "someone.key"
    identity.write(*files)
    port = home.settings().broker.port
    endpoint = Endpoint("127.0.0.1", port, home.authority / "root.pem", *files)
    name, clock = secrets.token_hex(16), SystemClock()
    return MqttBus(endpoint, name, clock=clock, rng=random.Random(1))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_broker_that_took_it_over_lets_the_fleet_in_until_it_is_revoked(
    home: Home, tmp_path: Path, kind: Kind
) -> None:
    folder = tmp_path / "out"
    authority = Authority.open(home.authority)
    code, _ = run(home, "--kind", kind, "--out", str(folder))
    heard: list[bytes] = []
    async with taken_over(home, folder, kind) as process:
        controller = bus_of(home, tmp_path, authority.issue_controller())
        await controller.start()
        await controller.wait_connected(15)
        await controller.subscribe(
            topics.up_any(topics.UP_EVENT), lambda m: heard.append(m.payload)
        )
        renewed = device_identity(authority, DEVICE, generation=2)
        device = bus_of(home, tmp_path, renewed)
        await device.start()
        await device.wait_connected(15)
        await device.publish(topics.up(DEVICE, topics.UP_EVENT), b"before")
        await until(lambda: heard, "the device")
        clock = SystemClock()
        with Store.open(home.database) as store, store.write() as records:
            revoke(records, DEVICE, "stolen", now=clock.now() + timedelta(seconds=1))

        assert run(home, "--kind", kind, "--out", str(folder))[0] == 0
        process.send_signal(signal.SIGHUP)

        async with asyncio.timeout(15):
            turn = 0
            while device.connected:
                device.publish_fast(topics.up(DEVICE, topics.UP_EVENT), b"after")
                await controller.publish(
                    topics.up("fence", topics.UP_EVENT), b"%d" % turn
                )
                await until(functools.partial(heard.count, b"%d" % turn), "the fence")
                if heard[-2:].count(b"after") == 0:
                    break
                turn += 1
        await device.close()
        await controller.close()

    assert code == 0


def test_it_is_for_its_owner_and_a_second_run_changes_nothing(
    home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    arguments = ("--kind", "nats", "--out", str(folder))

    assert run(home, *arguments, "--check")[0] == 3
    assert not folder.exists()
    assert run(home, *arguments)[0] == 0
    code, told = run(home, *arguments, "--json")

    assert code == 0
    assert json.loads(told)["changed"] == []
    assert run(home, *arguments, "--check")[0] == 0
    assert all(stat.S_IMODE(it.stat().st_mode) == 0o600 for it in folder.iterdir())
    assert not (folder / "broker.key").exists()


def test_generations_to_come_are_granted_ahead() -> None:
    admitted = (Grant("a", CLASS, (3, 4)),)

    grants = looking_ahead(admitted, {"b": CLASS, "a": CLASS}, {"a": 4, "c": 1}, 2)

    assert grants == (Grant("a", CLASS, (3, 4, 5, 6)), Grant("b", CLASS, (1, 2)))


def test_what_was_revoked_is_not_granted_ahead() -> None:
    assert looking_ahead((), {"a": CLASS}, {"a": 2}, 2) == (Grant("a", CLASS, (3, 4)),)
