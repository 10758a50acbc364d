"""Who comes in with which certificate, and no longer does, on both brokers."""

import asyncio
import contextlib
import ssl
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from quarterdeck_controller.broker.port import Grant
from quarterdeck_controller.identity.authority import Authority, Identity
from quarterdeck_controller.identity.revocation_list import Revoked
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError
from tests.support.brokers import RealYard, device_identity, until, yard_of
from tests.support.doors import ADMISSION, CLASS, DEVICE, OTHER, Doors

KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
CONNECT = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02a1"
"""A connection request of MQTT 3.1.1, as a client without a library sends it."""


class LongAgo:
    """A clock of two months ago, to issue what has expired since."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=60)

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture(params=KINDS)
async def doors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Doors]:
    made = Doors(await yard_of(str(request.param), tmp_path, ADMISSION, revoked=()))
    yield made
    await made.end()


async def refusal(yard: RealYard, identity: Identity) -> QuarterdeckError:
    bus = yard.bus_as("refused", identity)
    await bus.start()
    await until(lambda: bus.trouble, "a reason")
    assert bus.trouble is not None
    return bus.trouble


async def test_an_expired_certificate_is_named_as_the_reason(doors: Doors) -> None:
    folder = doors.yard.authority.root_file.parent
    expired = device_identity(Authority.open(folder, LongAgo()), OTHER)

    reason = await refusal(doors.yard, expired)

    assert reason.code is Code.CERTIFICATE_INVALID
    assert "refused our certificate" in reason.detail


@pytest.mark.parametrize("who", ["device", "controller", "claim"])
async def test_a_certificate_of_a_foreign_authority_is_refused(
    doors: Doors, tmp_path: Path, who: str
) -> None:
    foreign = Authority.create(tmp_path / "foreign", "test", SystemClock())
    identities = {
        "device": device_identity(foreign, OTHER),
        "controller": foreign.issue_controller(),
        "claim": foreign.issue_claim("claim-line-1", days=1),
    }

    reason = await refusal(doors.yard, identities[who])

    assert reason.code is Code.CERTIFICATE_INVALID


async def test_a_certificate_that_signs_itself_in_an_issued_ones_name_is_refused(
    doors: Doors, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign", "test", SystemClock())
    forged = device_identity(foreign, OTHER)
    issuing = device_identity(doors.yard.authority, OTHER).certificate_pem
    leaf = forged.certificate_pem.partition(b"-----END CERTIFICATE-----\n")
    ours = issuing.partition(b"-----END CERTIFICATE-----\n")[2]

    mixed = Identity(leaf[0] + leaf[1] + ours, forged.key_pem)

    assert (await refusal(doors.yard, mixed)).code is Code.CERTIFICATE_INVALID


async def test_a_broker_of_a_foreign_authority_is_not_trusted(
    doors: Doors, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign", "test", SystemClock())
    bus = doors.bus(OTHER)
    bus._endpoint = replace(bus._endpoint, ca=foreign.root_file)

    await bus.start()
    await until(lambda: bus.trouble, "a reason")

    assert bus.trouble is not None
    assert bus.trouble.code is Code.CERTIFICATE_INVALID
    assert "the broker's certificate" in bus.trouble.detail


async def test_the_servers_certificate_is_no_clients(doors: Doors) -> None:
    server = doors.yard.authority.issue_server(["127.0.0.1"])

    reason = await refusal(doors.yard, server)

    assert reason.code is Code.CERTIFICATE_INVALID


async def test_a_damaged_certificate_file_is_named(doors: Doors) -> None:
    reason = await refusal(doors.yard, Identity(b"not a certificate", b""))

    assert reason.code is Code.CERTIFICATE_INVALID
    assert "refused.pem" in reason.detail


async def spoken(endpoint: Endpoint, context: ssl.SSLContext | None) -> bytes:
    """Return what the broker says to a connection request; empty when it hangs up."""
    async with asyncio.timeout(15):
        reader, writer = await asyncio.open_connection(
            endpoint.host,
            endpoint.port,
            ssl=context,
            server_hostname=endpoint.host if context else None,
        )
        writer.write(CONNECT)
        try:
            return await reader.read(4)
        finally:
            writer.transport.abort()


def is_granted(answer: bytes) -> bool:
    return answer[:1] == b"\x20"


async def test_who_has_a_certificate_is_granted_a_session(doors: Doors) -> None:
    endpoint = doors.endpoint(OTHER)
    context = ssl.create_default_context(cafile=str(endpoint.ca))
    context.load_cert_chain(endpoint.certificate, endpoint.key)

    assert is_granted(await spoken(endpoint, context))


async def test_nobody_comes_in_without_a_certificate(doors: Doors) -> None:
    endpoint = doors.endpoint(OTHER)
    context = ssl.create_default_context(cafile=str(endpoint.ca))

    answer = b""
    with contextlib.suppress(OSError):
        answer = await spoken(endpoint, context)

    assert not is_granted(answer)


async def test_nobody_comes_in_without_tls(doors: Doors) -> None:
    answer = b""
    with contextlib.suppress(OSError):
        answer = await spoken(doors.endpoint(OTHER), None)

    assert not is_granted(answer)


async def test_tls_before_1_2_is_refused(doors: Doors) -> None:
    endpoint = doors.endpoint(OTHER)
    context = ssl.create_default_context(cafile=str(endpoint.ca))
    context.load_cert_chain(endpoint.certificate, endpoint.key)
    context.set_ciphers("ALL:@SECLEVEL=0")  # or it is we who refuse
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError) as refused:
        await spoken(endpoint, context)

    assert "alert protocol version" in str(refused.value).lower().replace("_", " ")


async def test_the_port_for_nats_own_clients_lets_nobody_in(tmp_path: Path) -> None:
    doors = Doors(await yard_of("nats", tmp_path, ADMISSION))
    endpoint = doors.endpoint("controller")
    port = nats_port(doors.yard.folder / "broker" / "nats.log")
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
    await doors.end()


def nats_port(log: Path) -> int:
    line = next(it for it in log.read_text().splitlines() if "client connections" in it)
    return int(line.rpartition(":")[2])


def serial_of(doors: Doors, who: str) -> str:
    """Return the serial number of the certificate with which ``who`` comes."""
    pem = doors.endpoint(who).certificate.read_bytes()
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


async def powerless(doors: Doors, bus: MqttBus) -> bool:
    """Return whether the controller hears nothing of ``bus``, and it nothing of it."""
    controller = await doors.controller()
    heard: list[str] = []
    came: list[str] = []
    await controller.subscribe(f"{topics.ROOT}/#", lambda m: heard.append(m.topic))
    with contextlib.suppress(QuarterdeckError):
        await bus.subscribe(topics.down_all(DEVICE), lambda m: came.append(m.topic))
    await controller.publish(topics.down(DEVICE, topics.DOWN_ACK), b"to it")
    bus.publish_fast(topics.up(DEVICE, topics.UP_EVENT), b"of it")
    with contextlib.suppress(QuarterdeckError):
        await bus.publish(topics.up(DEVICE, topics.UP_EVENT), b"of it")
    await controller.publish(topics.CONTROLLER_STATE, b"fence")
    await until(lambda: topics.CONTROLLER_STATE in heard, "the fence")
    return not came and topics.up(DEVICE, topics.UP_EVENT) not in heard


async def test_a_grant_lets_a_device_in_when_it_returns(doors: Doors) -> None:
    newcomer = device_identity(doors.yard.authority, "device-9")
    grants = (*ADMISSION.devices, Grant("device-9", CLASS))

    await doors.yard.broker.admit(replace(ADMISSION, devices=grants))

    controller = await doors.controller()
    heard: list[bytes] = []
    await controller.subscribe(
        topics.up_any(topics.UP_EVENT), lambda m: heard.append(m.payload)
    )
    bus = doors.yard.bus_as("device-9", newcomer)
    await bus.start()
    await bus.wait_connected(10)
    await bus.publish(topics.up("device-9", topics.UP_EVENT), b"here")
    await until(lambda: heard, "the newcomer")


async def test_a_certificate_that_was_replaced_is_powerless_at_once(
    doors: Doors,
) -> None:
    old, new = (
        doors.bus(DEVICE),
        device_identity(doors.yard.authority, DEVICE, generation=3),
    )
    await old.start()
    await old.wait_connected(10)
    grants = (Grant(DEVICE, CLASS, (3,)), *ADMISSION.devices[1:])

    await doors.yard.broker.admit(replace(ADMISSION, devices=grants))

    assert await powerless(doors, old)
    renewed = doors.yard.bus_as(DEVICE, new)
    await renewed.start()
    await renewed.wait_connected(10)
    assert not await powerless(doors, renewed)


async def test_a_device_that_is_admitted_no_more_is_powerless_at_once(
    doors: Doors,
) -> None:
    bus = doors.bus(DEVICE)
    await bus.start()
    await bus.wait_connected(10)

    await doors.yard.broker.admit(replace(ADMISSION, devices=ADMISSION.devices[1:]))

    assert await powerless(doors, bus)


@pytest.mark.mosquitto
async def test_a_certificate_on_the_list_of_revocations_cannot_connect(
    tmp_path: Path,
) -> None:
    doors = Doors(await yard_of("mosquitto", tmp_path, ADMISSION, revoked=()))
    live = doors.bus(OTHER)
    await live.start()
    await live.wait_connected(10)
    authority = doors.yard.authority
    revoked = authority.revocation_list(
        [Revoked(serial_of(doors, OTHER), datetime.now(UTC))]
    )

    await doors.yard.broker.admit(
        replace(ADMISSION, devices=ADMISSION.devices[:1], revocations=revoked)
    )
    await doors.yard.broker.cut([live._client_id])

    await until(lambda: live.trouble, "the end of the live session")
    await until(
        lambda: live.trouble and live.trouble.code is Code.CERTIFICATE_INVALID,
        "the refusal",
    )
    assert await doors.enter(DEVICE) is not None
    await doors.end()


def broken_lists(doors: Doors, folder: Path) -> dict[str, bytes]:
    ours = doors.yard.authority
    good = ours.revocation_list([])
    past = Authority.open(ours.root_file.parent, LongAgo())
    foreign = Authority.create(folder / "foreign", "test", SystemClock())
    return {
        "expired": past.revocation_list([], days=1),
        "not of the authority": foreign.revocation_list([]),
        "none": b"no list at all",
        "damaged": b"".join((good[:200], b"AAAA", good[204:])),
    }


@pytest.mark.mosquitto
@pytest.mark.parametrize("kind", ["expired", "not of the authority", "none", "damaged"])
async def test_a_list_that_would_lock_the_fleet_out_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    doors = Doors(await yard_of("mosquitto", tmp_path, ADMISSION, revoked=()))
    lists = broken_lists(doors, tmp_path)[kind]
    live = await doors.enter(OTHER)

    await doors.yard.broker.admit(replace(ADMISSION, revocations=lists))

    assert "event=revocations_left_out" in caplog.text
    assert live is not None
    assert live.connected
    for who in (DEVICE, OTHER, "controller"):
        assert await doors.enter(who) is not None
    await doors.end()


@pytest.mark.mosquitto
async def test_the_first_list_is_taken_up_although_the_broker_runs(
    tmp_path: Path,
) -> None:
    doors = Doors(await yard_of("mosquitto", tmp_path, ADMISSION))
    ended = asyncio.create_task(doors.yard.broker.ended())
    revoked = doors.yard.authority.revocation_list(
        [Revoked(serial_of(doors, OTHER), datetime.now(UTC))]
    )

    await doors.yard.broker.admit(replace(ADMISSION, revocations=revoked))

    assert await doors.enter(OTHER) is None
    assert await doors.enter(DEVICE) is not None
    assert not ended.done()
    ended.cancel()
    await doors.end()
