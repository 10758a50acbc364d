"""Who may publish and read what: everybody against every topic, on both brokers."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Will
from tests.support.brokers import until, yard_of
from tests.support.doors import (
    ADMISSION,
    CLAIM,
    CLASS,
    DEVICE,
    DIGEST,
    DOWNS,
    EVERY,
    NONCE,
    OTHER,
    OTHER_CLASS,
    THIRD,
    UPS,
    Doors,
    of_controller,
)

KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
NOBODIES = ["stranger", "retired", "moved", "claim-line-9"]
PUBLISHES = {
    DEVICE: {topics.up(DEVICE, leaf) for leaf in UPS},
    THIRD: {topics.up(THIRD, leaf) for leaf in UPS},
    CLAIM: {topics.enrol_request(CLAIM, NONCE)},
}
READS = {
    DEVICE: {
        *(topics.down(DEVICE, leaf) for leaf in DOWNS),
        topics.chunks(CLASS, DIGEST),
        *of_controller(),
    },
    THIRD: {
        *(topics.down(THIRD, leaf) for leaf in DOWNS),
        topics.chunks(OTHER_CLASS, DIGEST),
        *of_controller(),
    },
    CLAIM: {topics.enrol_reply(CLAIM, NONCE)},
}
OWN = {
    DEVICE: topics.down(DEVICE, topics.DOWN_ACK),
    THIRD: topics.down(THIRD, topics.DOWN_ACK),
    CLAIM: topics.enrol_reply(CLAIM, NONCE),
}


@pytest.fixture(params=KINDS)
async def doors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Doors]:
    made = Doors(await yard_of(str(request.param), tmp_path, ADMISSION))
    yield made
    await made.end()


def test_every_topic_of_the_protocol_is_tried() -> None:
    page = Path(__file__).parents[2] / "shared" / "PROTOCOL.md"
    section = page.read_text("utf-8").partition("## 2.")[2].partition("## 3.")[0]
    listed = set(re.findall(r"^\| `([a-z<>/]+)` \|", section, re.MULTILINE))
    names = {
        "<id>": DEVICE,
        "<claim>": CLAIM,
        "<nonce>": NONCE,
        "<class>": CLASS,
        "<artifact>": DIGEST,
    }

    written = {f"{topics.ROOT}/{filled(topic, names)}" for topic in listed}
    tried = {it for it in EVERY if not {OTHER, THIRD} & set(it.split("/"))}
    others = {topics.chunks(OTHER_CLASS, DIGEST)}

    assert written == {it for it in tried - others if "claim-line-2" not in it}


def filled(topic: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        topic = topic.replace(name, value)
    return topic


def test_the_leaves_that_are_granted_are_those_that_are_spelled() -> None:
    assert set(topics.UP_LEAVES) == set(UPS)
    assert set(topics.UP_RETAINED) < set(UPS)


@pytest.mark.parametrize("who", [DEVICE, THIRD, CLAIM, *NOBODIES])
async def test_everybody_publishes_to_their_own_topics_only(
    doors: Doors, who: str
) -> None:
    assert await doors.heard_from(who) == PUBLISHES.get(who, set())


@pytest.mark.parametrize("who", [DEVICE, THIRD, CLAIM, *NOBODIES])
async def test_everybody_reads_what_is_meant_for_them_only(
    doors: Doors, who: str
) -> None:
    assert await doors.heard_by(who, OWN.get(who)) == READS.get(who, set())


@pytest.mark.parametrize("who", [DEVICE, CLAIM, "retired"])
async def test_nobody_clears_what_the_broker_keeps_for_others(
    doors: Doors, who: str
) -> None:
    controller = await doors.controller()
    for topic in EVERY:
        await controller.publish(topic, b"kept", retain=True)

    await doors.publish_all(who, EVERY, b"")

    assert set(await doors.kept()) == set(EVERY) - PUBLISHES.get(who, set())


@pytest.mark.parametrize("who", [DEVICE, CLAIM])
async def test_a_will_reaches_no_topic_that_its_sender_may_not_publish_to(
    doors: Doors, who: str
) -> None:
    controller = await doors.controller()
    heard: list[str] = []
    await controller.subscribe(f"{topics.ROOT}/#", lambda m: heard.append(m.topic))
    last = min(PUBLISHES[who])

    for topic in (*(it for it in EVERY if it not in PUBLISHES[who]), last):
        bus = await doors.enter(who, Will(topic, b"gone"))
        if bus is not None:
            session = bus._session
            assert session is not None
            session.abort()
            await bus.close()

    await until(lambda: heard, "the will that is allowed")
    assert heard == [last]


async def test_a_device_cannot_touch_what_the_broker_itself_keeps(doors: Doors) -> None:
    controller = await doors.controller()
    await controller.publish(topics.CONTROLLER_STATE, b"kept", retain=True)
    inner = (
        "$JS/API/STREAM/PURGE/$MQTT_rmsgs",
        "$JS/API/STREAM/DELETE/$MQTT_rmsgs",
        "$JS/API/STREAM/DELETE/$MQTT_msgs",
        "$MQTT/rmsgs/qd/1/controller/state",
        "$SYS/REQ/SERVER/PING",
        "$CONTROL/dynamic-security/v1",
    )

    await doors.publish_all(DEVICE, inner, b"")

    assert await doors.kept() == {topics.CONTROLLER_STATE: b"kept"}
