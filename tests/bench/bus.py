"""Publishes at QoS 1 through MqttBus, beside bare paho with its own thread."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY, socket
from statistics import median
from time import perf_counter, process_time

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.bus.session import IN_FLIGHT
from tests.bench.table import Figure
from tests.support.brokers import real_yard

DEVICE = "device-1"
TOPIC = topics.up(DEVICE, topics.UP_EVENT)
PAYLOAD = bytes(200)
PEER = "paho loop_start"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds on the wall and of CPU for one publish."""

    wall: float
    cpu: float


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Publish pipelined and one at a time, in turns with paho."""
    return asyncio.run(_measure(folder, *((50, 10, 1) if quick else (2000, 300, 5))))


async def _measure(folder: Path, many: int, few: int, rounds: int) -> list[Figure]:
    yard = await real_yard("nats", folder, (DEVICE,))
    try:
        bus = yard.bus(DEVICE)
        await bus.start()
        await bus.wait_connected(10)
        # the id of the certificate is taken by our own session: paho has another
        with _paho(bus._endpoint) as client:
            turns = [await _turn(bus, client, many, few) for _ in range(rounds)]
    finally:
        await yard.end()
    ours, theirs, ours_one, theirs_one = zip(*turns, strict=True)
    return [
        *_figures(f"pipelined, {IN_FLIGHT} in flight", many * rounds, ours, theirs),
        *_figures("one at a time", few * rounds, ours_one, theirs_one),
    ]


async def _turn(
    bus: MqttBus, client: Client, many: int, few: int
) -> tuple[_Spent, _Spent, _Spent, _Spent]:
    with _stopwatch(many) as ours:
        await asyncio.gather(*(bus.publish(TOPIC, PAYLOAD) for _ in range(many)))
    with _stopwatch(many) as theirs:
        await asyncio.to_thread(_pipelined, client, many)
    with _stopwatch(few) as ours_one:
        for _ in range(few):
            await bus.publish(TOPIC, PAYLOAD)
    with _stopwatch(few) as theirs_one:
        await asyncio.to_thread(_one_by_one, client, few)
    return ours[0], theirs[0], ours_one[0], theirs_one[0]


def _figures(
    how: str, count: int, ours: tuple[_Spent, ...], theirs: tuple[_Spent, ...]
) -> list[Figure]:
    wall = [median(it.wall for it in turns) for turns in (ours, theirs)]
    cpu = [median(it.cpu for it in turns) for turns in (ours, theirs)]
    note = f"{1e6 * cpu[0]:.0f} us of CPU a publish, paho {1e6 * cpu[1]:.0f}"
    return [
        Figure(f"QoS 1, {how}", count, 1 / wall[0], "/s", PEER, 1 / wall[1], note),
    ]


@contextmanager
def _stopwatch(count: int) -> Iterator[list[_Spent]]:
    found: list[_Spent] = []
    wall, cpu = perf_counter(), process_time()
    yield found
    found.append(
        _Spent((perf_counter() - wall) / count, (process_time() - cpu) / count)
    )


def _pipelined(client: Client, count: int) -> None:
    sent = [client.publish(TOPIC, PAYLOAD, qos=1) for _ in range(count)]
    for info in sent:
        info.wait_for_publish(TIMEOUT_S)


def _one_by_one(client: Client, count: int) -> None:
    for _ in range(count):
        client.publish(TOPIC, PAYLOAD, qos=1).wait_for_publish(TIMEOUT_S)


def _send_at_once(sock: object) -> None:
    assert isinstance(sock, socket)
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


@contextmanager
def _paho(endpoint: Endpoint) -> Iterator[Client]:
    """Give a connected client, set up as well as paho can be."""
    client = Client(
        CallbackAPIVersion.VERSION2, "bare", protocol=MQTTProtocolVersion.MQTTv311
    )
    context = ssl.create_default_context(cafile=str(endpoint.ca))
    context.load_cert_chain(endpoint.certificate, endpoint.key)
    client.tls_set_context(context)
    client.max_inflight_messages_set(IN_FLIGHT)
    client.on_socket_open = lambda _c, _u, sock: _send_at_once(sock)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect(endpoint.host, endpoint.port)
    client.loop_start()
    try:
        if not connected.wait(TIMEOUT_S):
            raise TimeoutError("paho got no CONNACK")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()
