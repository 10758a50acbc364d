"""What every bus promises, on the fake and on both real brokers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message, Will
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, TransientError
from tests.support.brokers import MemoryYard, Yard, real_yard, until

DEVICE = "device-1"
OTHER = "device-2"
EVENT = topics.up(DEVICE, topics.UP_EVENT)
STATE = topics.up(DEVICE, topics.UP_STATE)
KINDS = ["memory", "nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


@pytest.fixture(params=KINDS)
async def yard(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Yard]:
    kind = str(request.param)
    made: Yard
    if kind == "memory":
        made = MemoryYard()
    else:
        made = await real_yard(kind, tmp_path, (DEVICE, OTHER))
    yield made
    await made.end()


async def connected(yard: Yard, name: str) -> Bus:
    bus = yard.bus(name)
    await bus.start()
    await bus.wait_connected(10)
    return bus


async def test_a_publish_reaches_who_subscribed(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    heard: list[Message] = []
    await controller.subscribe(topics.up_any(topics.UP_EVENT), heard.append)

    await device.publish(EVENT, b"hello")

    await until(lambda: heard, "the event")
    assert heard == [Message(EVENT, b"hello")]


async def test_a_retained_message_waits_for_a_late_subscriber(yard: Yard) -> None:
    device = await connected(yard, DEVICE)
    await device.publish(STATE, b"old", retain=True)
    await device.publish(STATE, b"new", retain=True)
    controller = await connected(yard, "controller")
    heard: list[Message] = []

    await controller.subscribe(topics.up_any(topics.UP_STATE), heard.append)

    await until(lambda: heard, "the retained state")
    assert heard == [Message(STATE, b"new", retained=True)]


async def test_an_empty_retained_message_clears_what_was_kept(yard: Yard) -> None:
    device = await connected(yard, DEVICE)
    await device.publish(STATE, b"kept", retain=True)
    await device.publish(STATE, b"", retain=True)
    controller = await connected(yard, "controller")
    heard: list[Message] = []
    await controller.subscribe(topics.up_any(topics.UP_STATE), heard.append)
    await controller.subscribe(topics.up_any(topics.UP_EVENT), heard.append)

    await device.publish(EVENT, b"after")

    await until(lambda: heard, "the event after it")
    assert [message.payload for message in heard] == [b"after"]


async def test_each_handler_hears_only_what_its_pattern_covers(yard: Yard) -> None:
    device = await connected(yard, DEVICE)
    controller = await connected(yard, "controller")
    down: list[str] = []
    state: list[str] = []
    await device.subscribe(topics.down_all(DEVICE), lambda m: down.append(m.topic))
    await device.subscribe(topics.CONTROLLER_STATE, lambda m: state.append(m.topic))

    await controller.publish(topics.down(OTHER, topics.DOWN_ACK), b"not for it")
    await controller.publish(topics.down(DEVICE, topics.DOWN_ACK), b"a")
    await controller.publish(topics.CONTROLLER_STATE, b"b")

    await until(lambda: down and state, "both messages")
    assert down == [topics.down(DEVICE, topics.DOWN_ACK)]
    assert state == [topics.CONTROLLER_STATE]


async def test_every_subscriber_gets_a_broadcast(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    heard: list[bytes] = []
    topic = topics.chunks("gateway", "a" * 64)
    for name in (DEVICE, OTHER):
        device = await connected(yard, name)
        await device.subscribe(topic, lambda m: heard.append(m.payload), qos=0)

    sent = controller.publish_fast(topic, b"chunk")

    await until(lambda: len(heard) == 2, "the chunk on both devices")
    assert sent
    assert heard == [b"chunk", b"chunk"]


async def test_a_large_message_arrives_whole(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    heard: list[bytes] = []
    await device.subscribe(
        topics.down_all(DEVICE), lambda m: heard.append(m.payload), qos=1
    )
    payload = bytes(range(256)) * 1024

    await controller.publish(topics.down(DEVICE, topics.DOWN_METADATA), payload)

    await until(lambda: heard, "the large message")
    assert heard == [payload]


async def test_many_small_messages_arrive_in_order(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    heard: list[int] = []
    await controller.subscribe(
        topics.up_any(topics.UP_TELEMETRY), lambda m: heard.append(int(m.payload))
    )
    topic = topics.up(DEVICE, topics.UP_TELEMETRY)

    await asyncio.gather(*(device.publish(topic, b"%d" % n) for n in range(1000)))

    await until(lambda: len(heard) == 1000, "a thousand messages")
    assert heard == list(range(1000))


async def test_a_broadcast_keeps_its_order_in_a_burst(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    heard: list[int] = []
    topic = topics.chunks("gateway", "b" * 64)
    await device.subscribe(topic, lambda m: heard.append(m.payload[0]), qos=0)

    for number in range(24):
        assert controller.publish_fast(topic, bytes([number]) * 65536)

    await until(lambda: len(heard) == 24, "every frame of the burst")
    assert heard == list(range(24))


async def test_nothing_more_is_heard_after_unsubscribing(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    heard: list[str] = []
    await device.subscribe(topics.down_all(DEVICE), lambda m: heard.append(m.topic))
    await device.subscribe(
        topics.CONTROLLER_STATE, lambda m: heard.append(m.topic), qos=1
    )

    await device.unsubscribe(topics.down_all(DEVICE))
    await controller.publish(topics.down(DEVICE, topics.DOWN_ACK), b"unheard")
    await controller.publish(topics.CONTROLLER_STATE, b"heard")

    await until(lambda: heard, "the last message")
    assert heard == [topics.CONTROLLER_STATE]


async def test_subscribing_again_replaces_the_handler(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    old: list[Message] = []
    new: list[Message] = []
    await controller.subscribe(EVENT, old.append)
    await controller.subscribe(EVENT, new.append)

    await controller.publish(EVENT, b"x")

    await until(lambda: new, "the message")
    assert old == []


async def test_a_handler_that_raises_does_not_harm_the_session(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    controller = await connected(yard, "controller")
    heard: list[Message] = []

    def fail(_: Message) -> None:
        raise RuntimeError("a bug")

    await controller.subscribe(EVENT, fail)
    await controller.subscribe(STATE, heard.append)
    await controller.publish(EVENT, b"x")
    await controller.publish(STATE, b"y")

    await until(lambda: heard, "the message after the bug")
    assert controller.connected
    assert "handler_failed" in caplog.text


async def test_the_will_is_published_when_the_connection_breaks(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    heard: list[bytes] = []
    await controller.subscribe(
        topics.up_any(topics.UP_STATE), lambda m: heard.append(m.payload)
    )
    device = yard.bus(DEVICE)
    device.set_will(lambda number: Will(STATE, b"gone %d" % number))
    await device.start()
    await device.wait_connected(10)

    await yard.cut(DEVICE)

    await until(lambda: heard, "the will")
    assert heard == [b"gone 1"]


async def test_the_will_is_retained_and_names_its_connection(yard: Yard) -> None:
    device = yard.bus(DEVICE)
    device.set_will(lambda number: Will(STATE, b"gone %d" % number))
    lost: list[int] = []
    device.on_disconnected(lambda: lost.append(1))
    await device.start()
    await device.wait_connected(10)
    await yard.cut(DEVICE)
    await until(lambda: lost, "the loss")
    await device.wait_connected(10)
    await yard.cut(DEVICE)
    controller = await connected(yard, "controller")
    heard: list[bytes] = []

    await controller.subscribe(
        topics.up_any(topics.UP_STATE), lambda m: heard.append(m.payload)
    )

    await until(lambda: b"gone 2" in heard, "the second will")


async def test_a_clean_close_publishes_no_will(yard: Yard) -> None:
    controller = await connected(yard, "controller")
    heard: list[bytes] = []
    await controller.subscribe(
        topics.up_any(topics.UP_STATE), lambda m: heard.append(m.payload)
    )
    device = yard.bus(DEVICE)
    device.set_will(lambda _: Will(STATE, b"will"))
    await device.start()
    await device.wait_connected(10)

    await device.close()
    other = await connected(yard, OTHER)
    await other.publish(topics.up(OTHER, topics.UP_STATE), b"later")

    await until(lambda: heard, "the later message")
    assert heard == [b"later"]


async def test_a_reconnection_publishes_no_will_and_subscribes_again(
    yard: Yard,
) -> None:
    controller = await connected(yard, "controller")
    states: list[bytes] = []
    await controller.subscribe(STATE, lambda message: states.append(message.payload))
    device = yard.bus(DEVICE)
    device.set_will(lambda connection: Will(STATE, b"gone %d" % connection))
    await device.start()
    await device.wait_connected(10)
    heard: list[bytes] = []
    topic = topics.down(DEVICE, topics.DOWN_ACK)
    await device.subscribe(topic, lambda message: heard.append(message.payload))
    ups: list[bool] = []
    device.on_connected(lambda: ups.append(True))

    await device.reconnect()

    await until(lambda: ups, "another session")
    assert device.trouble is None
    await controller.publish(topic, b"hello")
    await device.publish(STATE, b"here")
    await until(lambda: heard and states, "both messages")
    assert heard == [b"hello"]
    assert states == [b"here"]


async def test_publishing_while_down_fails_at_once(yard: Yard) -> None:
    device = yard.bus(DEVICE)

    with pytest.raises(TransientError) as refused:
        await device.publish(EVENT, b"x")

    assert refused.value.code is Code.NOT_CONNECTED
    assert not device.publish_fast(EVENT, b"x")
    assert not device.connected


async def test_it_reconnects_and_subscribes_again_after_the_broker_was_down(
    yard: Yard,
) -> None:
    controller = await connected(yard, "controller")
    device = await connected(yard, DEVICE)
    heard: list[bytes] = []
    ups: list[str] = []
    await controller.subscribe(
        topics.up_any(topics.UP_EVENT), lambda m: heard.append(m.payload)
    )
    controller.on_connected(lambda: ups.append("up"))
    controller.on_disconnected(lambda: ups.append("down"))

    await yard.go_down()
    await until(
        lambda: not controller.connected and not device.connected, "both to notice"
    )
    await controller.subscribe(STATE, lambda m: heard.append(m.payload))
    await yard.come_up()
    await controller.wait_connected(10)
    await device.wait_connected(10)
    await device.publish(EVENT, b"again")
    await device.publish(STATE, b"and what was subscribed meanwhile")

    await until(lambda: len(heard) == 2, "both messages after the restart")
    assert ups == ["down", "up"]
    assert controller.trouble is None


async def test_it_says_why_there_is_no_session(yard: Yard) -> None:
    await yard.go_down()
    device = yard.bus(DEVICE)
    await device.start()

    with pytest.raises(QuarterdeckError) as reason:
        await device.wait_connected(0.5)

    assert reason.value.code is Code.BROKER_UNREACHABLE
    assert device.trouble is not None
    await yard.come_up()
    await device.wait_connected(10)
    assert device.trouble is None


async def test_nothing_happens_after_it_was_closed(yard: Yard) -> None:
    device = await connected(yard, DEVICE)
    ups: list[str] = []
    device.on_connected(lambda: ups.append("up"))

    await device.close()
    await yard.go_down()
    await yard.come_up()

    assert not device.connected
    assert ups == []
    await device.close()
