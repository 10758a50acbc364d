"""A bus that meets a broker that is silent, foreign, stopped or strict."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from quarterdeck_controller.broker.mosquitto import find_program
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from tests.support.brokers import device_identity, free_port, real_yard, until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def bus_to(endpoint: Endpoint, *, keepalive_s: int = 60) -> MqttBus:
    return MqttBus(
        endpoint,
        "device-1",
        clock=SystemClock(),
        rng=random.Random(1),
        keepalive_s=keepalive_s,
    )


@pytest.fixture
def endpoint(tmp_path: Path) -> Endpoint:
    authority = Authority.create(tmp_path / "authority", "test", SystemClock())
    certificate, key = tmp_path / "device.pem", tmp_path / "device.key"
    device_identity(authority, "device-1").write(certificate, key)
    ca = authority.root_file
    return Endpoint("127.0.0.1", free_port(), ca, certificate, key)


@dataclass
class Listener:
    """A server that accepts, says one thing, and nothing more."""

    says: bytes = b""
    met: int = 0

    async def meet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.met += 1
        writer.write(self.says)
        await reader.read()
        writer.close()


async def test_closing_does_not_wait_for_a_broker_that_is_silent(
    endpoint: Endpoint,
) -> None:
    silent = Listener()
    server = await asyncio.start_server(silent.meet, endpoint.host, endpoint.port)
    bus = bus_to(endpoint)
    await bus.start()
    await until(lambda: silent.met, "the connection")

    async with asyncio.timeout(1):
        await bus.close()

    server.close()
    assert not bus.connected


async def test_a_server_without_tls_is_no_broker(endpoint: Endpoint) -> None:
    plain = Listener(b"220 mail.example ready\r\n")
    server = await asyncio.start_server(plain.meet, endpoint.host, endpoint.port)
    bus = bus_to(endpoint)
    await bus.start()

    await until(lambda: bus.trouble, "the reason")

    assert bus.trouble is not None
    assert bus.trouble.code is Code.BROKER_UNREACHABLE
    assert "TLS failed" in bus.trouble.detail
    await bus.close()
    server.close()


async def test_a_host_that_does_not_exist_is_named(endpoint: Endpoint) -> None:
    bus = bus_to(replace(endpoint, host="no-such-host.invalid"))
    await bus.start()

    await until(lambda: bus.trouble, "the reason")

    assert bus.trouble is not None
    assert bus.trouble.code is Code.BROKER_UNREACHABLE
    assert "no-such-host.invalid" in bus.trouble.detail
    await bus.close()


async def test_a_missing_key_file_is_named(endpoint: Endpoint) -> None:
    endpoint.key.unlink()
    bus = bus_to(endpoint)
    await bus.start()

    await until(lambda: bus.trouble, "the reason")

    assert bus.trouble is not None
    assert bus.trouble.code is Code.CERTIFICATE_INVALID
    assert "device.key" in bus.trouble.detail
    await bus.close()


async def test_a_broker_that_falls_silent_is_noticed_by_its_pings(
    tmp_path: Path,
) -> None:
    yard = await real_yard("nats", tmp_path, ("device-1",))
    identity = device_identity(yard.authority, "device-1")
    bus = bus_to(yard.endpoint("device-1", identity), keepalive_s=1)
    await bus.start()
    await bus.wait_connected(10)
    pid = int((tmp_path / "broker" / "broker.pid").read_text())

    os.kill(pid, signal.SIGSTOP)
    await until(lambda: not bus.connected, "the silence noticed")
    os.kill(pid, signal.SIGCONT)

    await bus.wait_connected(10)
    await bus.close()
    await yard.end()


async def test_a_publish_that_is_never_acknowledged_fails_with_the_connection(
    tmp_path: Path,
) -> None:
    yard = await real_yard("nats", tmp_path, ("device-1",))
    identity = device_identity(yard.authority, "device-1")
    bus = bus_to(yard.endpoint("device-1", identity), keepalive_s=1)
    await bus.start()
    await bus.wait_connected(10)
    pid = int((tmp_path / "broker" / "broker.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: is_stopped(pid), "the broker to stand still")

    publishing = asyncio.create_task(bus.publish("qd/1/device/device-1/up/event", b"x"))
    done, _ = await asyncio.wait([publishing], timeout=10)

    os.kill(pid, signal.SIGCONT)
    assert done
    assert "not_connected" in str(publishing.exception())
    await bus.close()
    await yard.end()


def is_stopped(pid: int) -> bool:
    """Return whether every thread of the process stands still."""
    states = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(it.read_text().rpartition(") ")[2][0] == "T" for it in states)


@pytest.fixture
async def strict(tmp_path: Path, endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    """A broker of somebody else's that asks for a password, too."""
    authority = Authority.open(tmp_path / "authority")
    authority.issue_server(["127.0.0.1"]).write(tmp_path / "b.pem", tmp_path / "b.key")
    passwords = tmp_path / "passwords"
    make = ["mosquitto_passwd", "-b", "-c", str(passwords), "fleet", "right"]
    subprocess.run(make, check=True, capture_output=True)
    config = tmp_path / "strict.conf"
    config.write_text(
        f"user root\nlistener {endpoint.port} 127.0.0.1\n"
        f"cafile {endpoint.ca}\ncertfile {tmp_path}/b.pem\nkeyfile {tmp_path}/b.key\n"
        f"require_certificate true\nallow_anonymous false\npassword_file {passwords}\n"
    )
    process = await asyncio.create_subprocess_exec(
        str(find_program()), "-c", str(config), stdout=sys.stderr, stderr=sys.stderr
    )
    yield endpoint
    process.terminate()
    await process.wait()


@pytest.mark.mosquitto
async def test_a_wrong_password_is_named_and_the_right_one_let_in(
    strict: Endpoint,
) -> None:
    wrong = bus_to(replace(strict, username="fleet", password="wrong"))
    await wrong.start()
    await until(
        lambda: wrong.trouble and wrong.trouble.code is Code.BROKER_REFUSED,
        "the refusal",
    )
    await wrong.close()
    right = bus_to(replace(strict, username="fleet", password="right"))

    await right.start()
    await right.wait_connected(10)

    assert right.trouble is None
    await right.close()
