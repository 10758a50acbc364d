"""Attacks by whoever has a certificate of the fleet, or nearly one, on a device."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from quarterdeck_controller.identity.authority import Authority
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError
from quarterdeck_shared.reported import SessionState
from tests.support.brokers import until
from tests.support.hostile import CLASS
from tests.support.identities import device_identity
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")

Attack = Callable[[Siege, MqttBus], Awaitable[None]]


async def sends_an_assignment(siege: Siege, thief: MqttBus) -> None:
    topic = topics.down(siege.device.name, topics.DOWN_ASSIGNMENT)
    await thief.publish(topic, siege.assign(), retain=True)


async def clears_the_assignment(siege: Siege, thief: MqttBus) -> None:
    topic = topics.down(siege.device.name, topics.DOWN_ASSIGNMENT)
    await thief.publish(topic, b"", retain=True)


async def announces_a_timestamp(_siege: Siege, thief: MqttBus) -> None:
    await thief.publish(topics.METADATA_TIMESTAMP, b"{}", retain=True)


async def speaks_as_the_controller(_siege: Siege, thief: MqttBus) -> None:
    gone = SessionState(online=False, boot=1, connection=1)
    await thief.publish(topics.CONTROLLER_STATE, gone.encode(), retain=True)


async def answers_for_the_repository(siege: Siege, thief: MqttBus) -> None:
    topic = topics.down(siege.device.name, topics.DOWN_METADATA)
    await thief.publish(topic, bytes(100))


async def sends_a_certificate(siege: Siege, thief: MqttBus) -> None:
    topic = topics.down(siege.device.name, topics.DOWN_CERTIFICATE)
    await thief.publish(topic, b"{}")


async def spoils_the_chunks(siege: Siege, thief: MqttBus) -> None:
    artifact = siege.world.catalog.release("model@2").variants["cam"].artifact
    thief.publish_fast(topics.chunks(CLASS, artifact), bytes(100))


async def reports_in_the_devices_name(siege: Siege, thief: MqttBus) -> None:
    lie = siege.reported.model_copy(update={"step": 10**9, "sequence": 10**9})
    topic = topics.up(siege.device.name, topics.UP_REPORTED)
    await thief.publish(topic, lie.encode(), retain=True)


async def says_that_the_device_is_gone(siege: Siege, thief: MqttBus) -> None:
    gone = siege.device.states[-1].model_copy(update={"online": False})
    topic = topics.up(siege.device.name, topics.UP_STATE)
    await thief.publish(topic, gone.encode(), retain=True)


ATTACKS: tuple[Attack, ...] = (
    sends_an_assignment,
    clears_the_assignment,
    announces_a_timestamp,
    speaks_as_the_controller,
    answers_for_the_repository,
    sends_a_certificate,
    spoils_the_chunks,
    reports_in_the_devices_name,
    says_that_the_device_is_gone,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda it: it.__name__)
async def test_another_device_of_the_fleet(siege: Siege, attack: Attack) -> None:
    before = siege.device.states[-1]
    thief = siege.ground.enrol()
    heard: list[object] = []
    async with siege.ground.session(thief.identity) as bus:
        await bus.wait_connected(10)
        own = topics.down(siege.device.name, "#")
        for pattern in (own, topics.up(siege.device.name, topics.UP_REPORTED)):
            with suppress(QuarterdeckError):
                await bus.subscribe(pattern, heard.append)
        with suppress(QuarterdeckError):
            async with asyncio.timeout(1):
                await attack(siege, bus)

        await siege.runs("model@1")
        # what is meant for the device is not read by another either
        await siege.heals()
        assert not heard
    assert siege.device.states[-1] == before
    assert not [it for it in siege.device.events if it.code is not None]
    assert siege.reported.step < 10**9


@pytest.mark.parametrize("how", ["its name", "controller"])
async def test_a_session_cannot_be_taken_over_by_a_name(siege: Siege, how: str) -> None:
    before = siege.device.states[-1]
    thief = siege.ground.enrol()
    client = siege.device.name if how == "its name" else how
    async with siege.ground.session(thief.identity, client=client) as bus:
        with suppress(QuarterdeckError):
            await bus.wait_connected(2)

        await siege.runs("model@1")
        assert siege.device.states[-1] == before
    await siege.heals()


async def test_a_device_comes_back_when_its_secret_client_id_was_stolen(
    siege: Siege,
) -> None:
    secret = siege.device.states[-1].client
    assert len(secret) == 32
    thief = siege.ground.enrol()
    async with siege.ground.session(thief.identity, client=secret) as bus:
        with suppress(QuarterdeckError):
            await bus.wait_connected(2)
        await siege.runs("model@1")
    await until(lambda: siege.device.states[-1].online, "the device back")

    await siege.heals()
    assert not [it for it in siege.device.events if it.code is not None]


async def test_a_certificate_of_another_authority_is_not_let_in(
    siege: Siege,
) -> None:
    folder = siege.ground.folder / "foreign" / siege.device.name
    foreign = Authority.create(folder, "test fleet", SystemClock())
    forged = device_identity(foreign, siege.device.name, CLASS)

    async with siege.ground.session(forged) as bus:
        with pytest.raises(QuarterdeckError) as refused:
            await bus.wait_connected(2)

    assert refused.value.code in {Code.CERTIFICATE_INVALID, Code.BROKER_REFUSED}
    await siege.heals()


async def test_an_expired_certificate_is_not_let_in(siege: Siege) -> None:
    authority = siege.ground.authority
    expired = device_identity(authority, siege.device.name, CLASS, days=-0.001)

    async with siege.ground.session(expired) as bus:
        with pytest.raises(QuarterdeckError):
            await bus.wait_connected(2)

    await siege.heals()


async def test_a_certificate_of_a_device_that_nobody_enrolled_is_not_let_in(
    siege: Siege,
) -> None:
    stranger = device_identity(siege.ground.authority, "cam-999", CLASS)

    async with siege.ground.session(stranger) as bus:
        with pytest.raises(QuarterdeckError):
            await bus.wait_connected(2)

    await siege.heals()


async def test_a_certificate_with_another_class_is_not_let_in(siege: Siege) -> None:
    authority = siege.ground.authority
    other = device_identity(authority, siege.device.name, "gateway")

    async with siege.ground.session(other) as bus:
        with pytest.raises(QuarterdeckError):
            await bus.wait_connected(2)

    await siege.heals()


async def test_a_revoked_certificate_ends_the_session_and_the_model_goes_on(
    siege: Siege,
) -> None:
    name, client = siege.device.name, siege.device.states[-1].client
    await siege.ground.admit(generations={name: 2})
    await siege.ground.broker.cut([client])
    await until(lambda: not siege.status()["connected"], "the end of the session")
    await siege.send(siege.assign())

    # without the broker it still serves what it has, and hears nothing new
    assert siege.status()["serving"]
    assert not [it for it in siege.device.events if it.sequence == 10]
    await siege.ground.admit()
    await until(
        lambda: siege.reported.sequence == 10, "the device let in again", timeout_s=20
    )
    await siege.runs("model@2")


async def test_a_claim_can_do_nothing_to_a_device(siege: Siege) -> None:
    before = siege.device.states[-1]
    claim = siege.ground.authority.issue_claim("claim-factory", days=1)
    await siege.ground.admit(claims=("claim-factory",))
    heard: list[object] = []
    async with siege.ground.session(claim) as bus:
        await bus.wait_connected(10)
        with suppress(QuarterdeckError):
            await bus.subscribe(topics.down(siege.device.name, "#"), heard.append)
        for attack in ATTACKS:
            with suppress(QuarterdeckError, TimeoutError):
                async with asyncio.timeout(0.5):
                    await attack(siege, bus)

        await siege.runs("model@1")
        await siege.heals()
        assert not heard
    await siege.ground.admit()
    assert siege.device.states[-1] == before
