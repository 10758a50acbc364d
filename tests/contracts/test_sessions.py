"""Whose session it is, and who can end it, on both brokers."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message, Will
from quarterdeck_shared.errors import QuarterdeckError
from quarterdeck_shared.reported import SessionState
from tests.support.brokers import until, yard_of
from tests.support.doors import (
    ADMISSION,
    CLAIM,
    CLASS,
    DEVICE,
    EVERY,
    OTHER,
    THIRD,
    WILD,
    Doors,
)

KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
STATE = topics.up(OTHER, topics.UP_STATE)
RELOADS = 20


@pytest.fixture(params=KINDS)
async def doors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Doors]:
    made = Doors(await yard_of(str(request.param), tmp_path, ADMISSION, revoked=()))
    yield made
    await made.end()


async def entered(doors: Doors, who: str, client_id: str | None = None) -> Bus:
    bus = doors.bus(who, client_id=client_id)
    await bus.start()
    await bus.wait_connected(10)
    return bus


def losses(bus: Bus) -> list[int]:
    lost: list[int] = []
    bus.on_disconnected(lambda: lost.append(1))
    return lost


async def answers(doors: Doors, bus: Bus) -> bool:
    """Return whether ``bus``, the session of the other device, is heard."""
    controller = await doors.controller()
    heard: list[Message] = []
    await controller.subscribe(topics.up(OTHER, topics.UP_EVENT), heard.append)
    with contextlib.suppress(QuarterdeckError):
        await bus.publish(topics.up(OTHER, topics.UP_EVENT), b"here")
        await until(lambda: heard, "the event")
    return bool(heard)


@pytest.mark.parametrize("thief", [DEVICE, THIRD, CLAIM, OTHER])
async def test_a_session_is_not_taken_over_by_who_does_not_know_its_id(
    doors: Doors, thief: str
) -> None:
    victim = await entered(doors, OTHER)
    lost = losses(victim)

    for guess in (OTHER, f"CN={OTHER}", "controller", "0" * 32):
        bus = await entered(doors, thief, guess)
        await bus.close()

    assert await answers(doors, victim)
    assert lost == []


async def test_no_device_or_claim_learns_the_client_id_of_another(doors: Doors) -> None:
    secret = "5ec7e7" * 5 + "ab"
    victim = await entered(doors, OTHER, secret)
    state = SessionState(online=True, boot=1, connection=1, client=secret)
    await victim.publish(STATE, state.encode(), retain=True)
    heard: list[Message] = []

    for spy in (DEVICE, THIRD, CLAIM):
        bus = await entered(doors, spy)
        for pattern in (*EVERY, *WILD):
            with contextlib.suppress(QuarterdeckError):
                await bus.subscribe(pattern, heard.append)
    await victim.publish(STATE, state.encode(), retain=True)
    controller = await doors.controller()
    told: list[bytes] = []
    await controller.subscribe(STATE, lambda m: told.append(m.payload))
    await until(lambda: told, "the birth, which the controller may read")

    assert not [it for it in heard if secret.encode() in it.payload]


async def test_what_the_broker_writes_is_for_its_owner_only(doors: Doors) -> None:
    await entered(doors, OTHER)
    folder = doors.yard.folder / "broker"

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.mosquitto
async def test_mosquittos_log_names_no_client_id(tmp_path: Path) -> None:
    doors = Doors(await yard_of("mosquitto", tmp_path, ADMISSION))
    bus = doors.bus(OTHER)
    await bus.start()
    await bus.wait_connected(10)
    await bus.publish(topics.up(OTHER, topics.UP_EVENT), b"here")
    await doors.yard.broker.cut([bus._client_id])
    await doors.end()

    said = (tmp_path / "broker" / "mosquitto.log").read_text()

    assert "running" in said
    assert bus._client_id not in said


async def test_the_sessions_that_are_named_end_and_no_others(doors: Doors) -> None:
    ended, stays = doors.bus(DEVICE), doors.bus(OTHER)
    for bus in (ended, stays):
        await bus.start()
        await bus.wait_connected(10)
    lost, kept = losses(ended), losses(stays)

    await doors.yard.broker.cut([ended._client_id, "", "d" * 32])
    await doors.yard.broker.cut([])

    await until(lambda: lost, "the end of the session")
    assert await answers(doors, stays)
    assert kept == []


async def test_a_reconnecting_agent_gets_on_beside_its_half_open_session(
    doors: Doors,
) -> None:
    controller = await doors.controller()
    heard: list[bytes] = []
    await controller.subscribe(STATE, lambda m: heard.append(m.payload))
    old = doors.bus(OTHER, will=Will(STATE, b"the old one is gone"))
    await old.start()
    await old.wait_connected(10)
    session = old._session
    assert session is not None
    session._unwatch()  # it has lost power: the broker does not know yet

    new = await entered(doors, OTHER)
    lost = losses(new)
    assert await answers(doors, new)
    session.abort()

    await until(lambda: heard, "the will of the old session")
    assert await answers(doors, new)
    assert lost == []


async def test_a_batch_of_machines_shares_one_claim(doors: Doors) -> None:
    controller = await doors.controller()
    await controller.subscribe(topics.enrol_any(), lambda m: echo(controller, m))
    machines = [await entered(doors, CLAIM) for _ in range(5)]
    heard: dict[int, list[bytes]] = {number: [] for number in range(5)}

    for number, machine in enumerate(machines):
        reply = topics.enrol_reply(CLAIM, f"n{number}")
        await machine.subscribe(reply, hears(heard[number]))
    for number, machine in enumerate(machines):
        request = topics.enrol_request(CLAIM, f"n{number}")
        await machine.publish(request, b"%d" % number)

    await until(lambda: all(heard.values()), "every reply")
    assert heard == {number: [b"%d" % number] for number in range(5)}
    assert all(machine.connected for machine in machines)


def hears(mine: list[bytes]) -> Callable[[Message], None]:
    return lambda message: mine.append(message.payload)


tasks: set[asyncio.Task[None]] = set()


def echo(controller: Bus, message: Message) -> None:
    asked = topics.parse_enrol(message.topic)
    assert asked is not None
    reply = topics.enrol_reply(asked.claim, asked.nonce)
    tasks.add(asyncio.create_task(controller.publish(reply, message.payload)))


async def test_sessions_of_others_are_not_disturbed_by_admissions(doors: Doors) -> None:
    controller = await doors.controller()
    device = await entered(doors, OTHER)
    lost = [losses(controller), losses(device)]
    heard: list[bytes] = []
    await controller.subscribe(
        topics.up_any(topics.UP_EVENT), lambda m: heard.append(m.payload)
    )
    stopping = asyncio.Event()

    async def talk() -> int:
        said = 0
        while not stopping.is_set():
            await device.publish(topics.up(OTHER, topics.UP_EVENT), b"%d" % said)
            said += 1
        return said

    talking = asyncio.create_task(talk())
    for number in range(RELOADS):
        changed = Grant(DEVICE, CLASS, tuple(range(2, 3 + number % 3)))
        admission = replace(ADMISSION, devices=(changed, *ADMISSION.devices[1:]))
        await doors.yard.broker.admit(admission)
    stopping.set()
    said = await talking

    await until(lambda: len(heard) >= said, "everything that was said")
    assert said > RELOADS
    assert heard == [b"%d" % number for number in range(said)]
    assert lost == [[], []]


async def test_many_admissions_at_once_end_with_the_last(doors: Doors) -> None:
    admissions = [
        Admission((Grant(OTHER, CLASS), Grant(f"device-{n}", CLASS)))
        for n in range(10, 20)
    ]

    async with asyncio.TaskGroup() as group:
        for admission in admissions:
            group.create_task(doors.yard.broker.admit(admission))

    assert await answers(doors, await entered(doors, OTHER))
    told = "".join(
        it.read_text()
        for it in (doors.yard.folder / "broker").iterdir()
        if it.suffix in {".conf", ".acl"}
    )
    assert "device-19" in told
    assert "device-18" not in told
