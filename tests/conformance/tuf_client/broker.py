"""A real broker between the conformance suite's server and the client under test.

``python -m tests.conformance.tuf_client.broker FOLDER`` runs it until it is ended: a
nats-server with mutual TLS, and the gateway, which asks the suite's server by HTTP for
each file that the client asks for over MQTT, once. ``endpoint.json`` in the folder is
there when both are ready.
"""

import argparse
import asyncio
import http.client
import json
import logging
import random
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from quarterdeck_controller.broker.nats import NatsBroker
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.repository.server import replies
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint, Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.metadata import MetadataRequest
from tests.support.brokers import free_port
from tests.support.identities import device_identity

DEVICE, CLASS = "tuf-client", "gateway"
ENDPOINT = "endpoint.json"
YEARS = 3650.0
ABSENT = (403, 404)
LOCAL = ("127.0.0.1", "localhost")
ANSWER_S = 5.0

_log = logging.getLogger(__name__)


def read_endpoint(folder: Path) -> Endpoint:
    """Return how the client under test reaches the broker of ``folder``."""
    told = json.loads((folder / ENDPOINT).read_text("utf-8"))
    files = {name: folder / told[name] for name in ("ca", "certificate", "key")}
    return Endpoint(told["host"], told["port"], **files)


class Gateway:
    """Answers each request for a file with what HTTP says of it."""

    def __init__(self, bus: MqttBus) -> None:
        self._bus = bus
        self._work: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Hear the client's requests from now on."""
        await self._bus.subscribe(topics.up(DEVICE, topics.UP_METADATA), self._hear)

    def _hear(self, message: Message) -> None:
        request = MetadataRequest.decode(message.payload)
        task = asyncio.create_task(self._answer(request))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _answer(self, request: MetadataRequest) -> None:
        try:
            data = await asyncio.to_thread(get, request.name)
        except (OSError, http.client.HTTPException) as error:
            _log.warning("%s: %s", request.name, error)
            return  # no answer is what a client gets from a server that is away
        topic = topics.down(DEVICE, topics.DOWN_METADATA)
        with suppress(TransientError):
            for reply in replies(request.id, data):
                await self._bus.publish(topic, reply.encode())


def get(url: str) -> bytes | None:
    """Return what is at ``url`` on this machine, or None when nothing is.

    Raises:
        OSError: There is no answer, or one that says neither.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in LOCAL:
        raise OSError(f"{url} is not on this machine")
    connection = http.client.HTTPConnection(
        parts.hostname, parts.port, timeout=ANSWER_S
    )
    try:
        connection.request("GET", quote(parts.path, "/%"))
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.status in ABSENT:
        return None
    if response.status != http.client.OK:
        raise OSError(f"{url}: {response.status} {response.reason}")
    return data


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Path]:
    """Run broker and gateway in ``folder`` until it is left."""
    folder.mkdir(parents=True, exist_ok=True)
    clock, port = SystemClock(), free_port()
    authority = Authority.create(folder / "authority", "conformance", clock)
    server = authority.issue_server(["127.0.0.1"], days=YEARS)
    server.write(folder / "broker.pem", folder / "broker.key")
    client = device_identity(authority, DEVICE, CLASS, days=YEARS)
    client.write(folder / "client.pem", folder / "client.key")
    controller = authority.issue_controller(days=YEARS)
    controller.write(folder / "controller.pem", folder / "controller.key")
    broker = NatsBroker(
        folder / "broker",
        "127.0.0.1",
        port,
        ca=authority.root_file,
        certificate=folder / "broker.pem",
        key=folder / "broker.key",
        clock=clock,
    )
    await broker.admit(Admission((Grant(DEVICE, CLASS),)))
    await broker.start()
    endpoint = broker.endpoint(folder / "controller.pem", folder / "controller.key")
    chance = random.SystemRandom()
    bus = MqttBus(endpoint, secrets.token_hex(16), clock=clock, rng=chance)
    try:
        await bus.start()
        await bus.wait_connected(10)
        await Gateway(bus).start()
        _write_endpoint(folder, authority.root_file, port)
        yield folder
    finally:
        await bus.close()
        await broker.stop()


def _write_endpoint(folder: Path, ca: Path, port: int) -> None:
    told = {
        "host": "127.0.0.1",
        "port": port,
        "ca": str(ca.relative_to(folder)),
        "certificate": "client.pem",
        "key": "client.key",
    }
    beside = folder / f".{ENDPOINT}"
    beside.write_text(json.dumps(told), "utf-8")
    beside.rename(folder / ENDPOINT)


async def _run(folder: Path) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    async with running(folder):
        await stopping.wait()


if __name__ == "__main__":
    _given = argparse.ArgumentParser(prog="tuf_client.broker")
    _given.add_argument("folder", type=Path)
    asyncio.run(_run(_given.parse_args().folder.absolute()))
