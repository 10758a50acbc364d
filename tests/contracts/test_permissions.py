"""What a broker lets a certificate do, on both real brokers over mutual TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.fleet.authority import Authority, Identity
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from tests.support.brokers import CLASS, RealYard, device_identity, real_yard, until

DEVICE = "device-1"
OTHER = "device-2"
DIGEST = "c" * 64
KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


class LongAgo:
    """A clock of two months ago, to issue what has expired since."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=60)

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture(params=KINDS)
async def yard(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[RealYard]:
    made = await real_yard(str(request.param), tmp_path, (DEVICE, OTHER))
    yield made
    await made.end()


async def connected(yard: RealYard, name: str) -> MqttBus:
    bus = yard.bus(name)
    await bus.start()
    await bus.wait_connected(10)
    return bus


async def refusal(bus: MqttBus) -> QuarterdeckError:
    await bus.start()
    await until(lambda: bus.trouble, "a reason")
    assert bus.trouble is not None
    return bus.trouble


async def heard_of(
    controller: MqttBus, device: MqttBus, pattern: str, topic: str
) -> list[str]:
    """Return what ``device`` hears of ``topic`` before a message that it may read."""
    heard: list[str] = []
    fence = topics.down(DEVICE, topics.DOWN_ACK)
    with contextlib.suppress(RejectedError):  # nats says so, mosquitto never does
        await device.subscribe(pattern, lambda m: heard.append(m.topic))
    await device.subscribe(fence, lambda m: heard.append(m.topic))
    await controller.publish(topic, b"secret", retain=True)
    await controller.publish(fence, b"fence")
    await until(lambda: fence in heard, "the message that is allowed")
    return [topic for topic in heard if topic != fence]


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        (topics.down_all(DEVICE), topics.down(DEVICE, topics.DOWN_ASSIGNMENT)),
        (topics.chunks(CLASS, DIGEST), topics.chunks(CLASS, DIGEST)),
        (topics.CONTROLLER_STATE, topics.CONTROLLER_STATE),
        (topics.METADATA_TIMESTAMP, topics.METADATA_TIMESTAMP),
    ],
)
async def test_a_device_reads_what_is_meant_for_it(
    yard: RealYard, pattern: str, topic: str
) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)

    assert await heard_of(controller, device, pattern, topic) == [topic]


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        (topics.down_all(OTHER), topics.down(OTHER, topics.DOWN_ASSIGNMENT)),
        (topics.up_any(topics.UP_STATE), topics.up(OTHER, topics.UP_STATE)),
        (topics.chunks("board", DIGEST), topics.chunks("board", DIGEST)),
        (topics.chunks_any("board"), topics.chunks("board", DIGEST)),
        (f"{topics.ROOT}/#", topics.down(OTHER, topics.DOWN_METADATA)),
        ("#", topics.down(OTHER, topics.DOWN_METADATA)),
    ],
)
async def test_a_device_cannot_read_what_is_not_meant_for_it(
    yard: RealYard, pattern: str, topic: str
) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)

    assert await heard_of(controller, device, pattern, topic) == []


async def test_a_device_publishes_under_its_own_name_only(yard: RealYard) -> None:
    controller = await connected(yard, "controller")
    own = topics.up(DEVICE, topics.UP_EVENT)
    heard: list[str] = []
    await controller.subscribe(f"{topics.ROOT}/#", lambda m: heard.append(m.topic))
    denied = [
        topics.up(OTHER, topics.UP_STATE),
        topics.down(DEVICE, topics.DOWN_ASSIGNMENT),
        topics.down(OTHER, topics.DOWN_ASSIGNMENT),
        topics.chunks(CLASS, DIGEST),
        topics.CONTROLLER_STATE,
        topics.METADATA_TIMESTAMP,
    ]

    for topic in denied:  # a session each: mosquitto 2.0.11 hangs up at a denied one
        device = await connected(yard, DEVICE)
        device.publish_fast(topic, b"spoofed")
        with contextlib.suppress(TransientError):
            await device.publish(topic, b"spoofed", retain=True)
        await device.close()
    device = await connected(yard, DEVICE)
    await device.publish(own, b"mine")

    await until(lambda: heard, "what is allowed")
    assert heard == [own]


async def test_a_device_that_was_not_granted_is_kept_out(yard: RealYard) -> None:
    controller = await connected(yard, "controller")
    heard: list[str] = []
    await controller.subscribe(f"{topics.ROOT}/#", lambda m: heard.append(m.topic))
    stranger = yard.bus("device-3")
    await stranger.start()
    with contextlib.suppress(RejectedError):  # nats refuses the session itself
        await stranger.wait_connected(1.5)
        await stranger.publish(topics.up("device-3", topics.UP_STATE), b"hello")
    await controller.publish(topics.CONTROLLER_STATE, b"fence")

    await until(lambda: heard, "the controller's own message")
    assert heard == [topics.CONTROLLER_STATE]


async def test_a_grant_lets_a_device_in_and_cuts_no_session(yard: RealYard) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    lost: list[str] = []
    heard: list[str] = []
    controller.on_disconnected(lambda: lost.append("controller"))
    device.on_disconnected(lambda: lost.append(DEVICE))
    await device.subscribe(topics.down_all(DEVICE), lambda m: heard.append(m.topic))
    await controller.subscribe(
        topics.up_any(topics.UP_STATE), lambda m: heard.append(m.topic)
    )
    newcomer = yard.bus("device-3")
    await newcomer.start()

    await yard.broker.admit(
        Admission(tuple(Grant(it, CLASS) for it in (DEVICE, OTHER, "device-3")))
    )

    topic = topics.up("device-3", topics.UP_STATE)
    async with asyncio.timeout(20):
        while topic not in heard:
            await newcomer.wait_connected(10)
            await newcomer.publish(topic, b"hello")
            await asyncio.sleep(0.05)
    await controller.publish(topics.down(DEVICE, topics.DOWN_ACK), b"still there")
    await until(lambda: topics.down(DEVICE, topics.DOWN_ACK) in heard, "the old device")
    assert lost == []


async def test_a_device_whose_grant_is_taken_away_is_heard_no_more(
    yard: RealYard,
) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    other = await connected(yard, OTHER)
    heard: list[bytes] = []
    await controller.subscribe(
        topics.up_any(topics.UP_EVENT), lambda m: heard.append(m.payload)
    )
    assert await is_heard(device, other, heard, 0)

    await yard.broker.admit(Admission((Grant(OTHER, CLASS),)))

    async with asyncio.timeout(20):
        turn = 1
        while await is_heard(device, other, heard, turn):
            turn += 1


async def is_heard(
    device: MqttBus, other: MqttBus, heard: list[bytes], turn: int
) -> bool:
    """Return whether the controller hears ``device`` before it hears ``other``."""
    with contextlib.suppress(QuarterdeckError):
        await device.publish(topics.up(DEVICE, topics.UP_EVENT), b"device %d" % turn)
    await other.publish(topics.up(OTHER, topics.UP_EVENT), b"other %d" % turn)
    await until(lambda: b"other %d" % turn in heard, "the device that is granted")
    return b"device %d" % turn in heard


@pytest.mark.mosquitto
async def test_a_device_cannot_take_the_session_of_another_on_mosquitto(
    tmp_path: Path,
) -> None:
    yard = await real_yard("mosquitto", tmp_path, (DEVICE, OTHER))
    victim = await connected(yard, DEVICE)
    lost: list[str] = []
    victim.on_disconnected(lambda: lost.append(DEVICE))
    thief_certificate = device_identity(yard.authority, OTHER)
    endpoint = yard.endpoint(OTHER, thief_certificate)
    thief = MqttBus(endpoint, DEVICE, clock=SystemClock(), rng=victim._rng)
    await thief.start()
    await thief.wait_connected(10)

    await victim.publish(topics.up(DEVICE, topics.UP_EVENT), b"still here")

    assert lost == []
    await thief.close()
    await yard.end()


async def test_an_expired_certificate_is_named_as_the_reason(yard: RealYard) -> None:
    folder = yard.authority.root_file.parent
    expired = device_identity(Authority.open(folder, LongAgo()), DEVICE)

    reason = await refusal(yard.bus_as(DEVICE, expired))

    assert reason.code is Code.CERTIFICATE_INVALID
    assert "refused our certificate" in reason.detail


async def test_a_certificate_of_a_foreign_authority_is_refused(
    yard: RealYard, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign", "test", SystemClock())

    reason = await refusal(yard.bus_as(DEVICE, device_identity(foreign, DEVICE)))

    assert reason.code is Code.CERTIFICATE_INVALID


async def test_a_broker_of_a_foreign_authority_is_not_trusted(
    yard: RealYard, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign", "test", SystemClock())
    bus = yard.bus(DEVICE)
    bus._endpoint = yard.endpoint(DEVICE, device_identity(foreign, DEVICE))
    bus._endpoint = type(bus._endpoint)(
        bus._endpoint.host,
        bus._endpoint.port,
        foreign.root_file,
        bus._endpoint.certificate,
        bus._endpoint.key,
    )

    reason = await refusal(bus)

    assert reason.code is Code.CERTIFICATE_INVALID
    assert "the broker's certificate" in reason.detail


async def test_the_servers_certificate_is_no_clients(yard: RealYard) -> None:
    server = yard.authority.issue_server(["127.0.0.1"])

    reason = await refusal(yard.bus_as("controller", server))

    assert reason.code is Code.CERTIFICATE_INVALID


async def test_a_damaged_certificate_file_is_named(yard: RealYard) -> None:
    reason = await refusal(yard.bus_as(DEVICE, Identity(b"not a certificate", b"")))

    assert reason.code is Code.CERTIFICATE_INVALID
    assert f"{DEVICE}.pem" in reason.detail


async def test_the_port_for_nats_own_clients_lets_nobody_in(tmp_path: Path) -> None:
    yard = await real_yard("nats", tmp_path, (DEVICE,))
    endpoint = yard.endpoint("controller", yard.authority.issue_controller())
    port = nats_port(yard.folder / "broker" / "nats.log")
    context = ssl.create_default_context(cafile=str(endpoint.ca))
    context.load_cert_chain(endpoint.certificate, endpoint.key)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    await writer.start_tls(context, server_hostname="127.0.0.1")

    writer.write(b'CONNECT {"verbose":true,"tls_required":true}\r\nPING\r\n')

    async with asyncio.timeout(10):
        answer = await reader.readline()
    assert b"Authorization Violation" in answer
    writer.close()
    await yard.end()


def nats_port(log: Path) -> int:
    line = next(it for it in log.read_text().splitlines() if "client connections" in it)
    return int(line.rpartition(":")[2])
