"""A broker with everybody at its door: what each may publish, read and clear.

The topics tried are taken from the module that spells them, so that none is forgotten.
"""

import contextlib
import random
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.identity.authority import Identity
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint, Message, Will
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from tests.support.brokers import RealYard, device_identity, until

CLASS, OTHER_CLASS = "gateway", "board"
DEVICE, OTHER, THIRD = "device-1", "device-2", "device-3"
CLAIM, OTHER_CLAIM = "claim-line-1", "claim-line-2"
NONCE, DIGEST = "n0", "c" * 64
ADMISSION = Admission(
    (
        Grant(DEVICE, CLASS, (2,)),
        Grant(OTHER, CLASS),
        Grant(THIRD, OTHER_CLASS),
    ),
    (CLAIM, OTHER_CLAIM),
)
DEVICES = {
    DEVICE: (DEVICE, CLASS, 2),
    OTHER: (OTHER, CLASS, 1),
    THIRD: (THIRD, OTHER_CLASS, 1),
    "retired": (DEVICE, CLASS, 1),
    "moved": (DEVICE, OTHER_CLASS, 2),
    "stranger": ("device-9", CLASS, 1),
}
"""Who comes with a device's certificate: its name, class and generation. The first
three are admitted; one came with an earlier certificate, one had another class."""

FENCE = b"fence"


def constants(prefix: str) -> tuple[str, ...]:
    """Return the last levels of topics that ``topics`` names with ``prefix``."""
    named = ((name, it) for name, it in vars(topics).items() if name.startswith(prefix))
    return tuple(it for _, it in named if isinstance(it, str))


UPS, DOWNS = constants("UP_"), constants("DOWN_")


def of_controller() -> tuple[str, ...]:
    """Return the topics that the controller alone publishes, for all."""
    return (topics.CONTROLLER_STATE, topics.METADATA_TIMESTAMP)


def of_device(device: str) -> tuple[str, ...]:
    """Return every topic of ``device``, both directions."""
    ups = (topics.up(device, leaf) for leaf in UPS)
    downs = (topics.down(device, leaf) for leaf in DOWNS)
    return (*ups, *downs)


def of_claim(claim: str) -> tuple[str, ...]:
    """Return every topic of ``claim``, both directions."""
    return (topics.enrol_request(claim, NONCE), topics.enrol_reply(claim, NONCE))


EVERY = (
    *of_controller(),
    *(it for device in (DEVICE, OTHER, THIRD) for it in of_device(device)),
    *(topics.chunks(it, DIGEST) for it in (CLASS, OTHER_CLASS)),
    *(it for claim in (CLAIM, OTHER_CLAIM) for it in of_claim(claim)),
)
"""Every topic there is, of three devices of two classes and of two claims."""

UNKNOWN = (
    topics.up(DEVICE, "anything"),
    f"{topics.ROOT}/device/{DEVICE}/up",
    f"{topics.ROOT}/device/{DEVICE}/up/state/more",
    f"{topics.ROOT}/device/{DEVICE}",
    f"{topics.ROOT}/enrol/{CLAIM}",
    f"{topics.ROOT}/enrol/{CLAIM}/{NONCE}/request/more",
    topics.ROOT,
    "qd/2/controller/state",
    "qd.1.controller.state",
    "/qd/1/controller/state",
    "controller/state",
)
"""Topics that nobody publishes, close to those that somebody does."""

WILD = (
    "#",
    "+/#",
    f"{topics.ROOT}/#",
    f"{topics.ROOT}/+/+/#",
    f"{topics.ROOT}/device/#",
    f"{topics.ROOT}/device/+/down/#",
    f"{topics.ROOT}/device/+/down/assignment",
    f"{topics.ROOT}/device/+/up/#",
    topics.up_any(topics.UP_STATE),
    f"{topics.ROOT}/class/#",
    f"{topics.ROOT}/class/+/chunk/+",
    f"{topics.ROOT}/enrol/#",
    topics.enrol_any(),
    f"{topics.ROOT}/enrol/+/+/reply",
    "$SYS/#",
    "$share/all/#",
    "$MQTT/#",
    "$JS/#",
    "$JS/API/>",
    "_INBOX/#",
    "+/+/+/+/+/+",
)
"""Filters that reach further than anybody but the controller may read."""


@dataclass
class Doors:
    """A yard, and sessions of whoever comes."""

    yard: RealYard
    sessions: list[MqttBus] = field(default_factory=list)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    def identity(self, who: str) -> Identity:
        """Return a fresh identity of somebody who is known by this name."""
        authority = self.yard.authority
        if who == "controller":
            return authority.issue_controller()
        if who.startswith("claim-"):
            return authority.issue_claim(who, days=1)
        device, device_class, generation = DEVICES[who]
        return device_identity(authority, device, device_class, generation=generation)

    def endpoint(self, who: str) -> Endpoint:
        """Return how somebody reaches the broker, always with the same identity."""
        if who not in self.endpoints:
            self.endpoints[who] = self.yard.endpoint(f"at-{who}", self.identity(who))
        return self.endpoints[who]

    def bus(
        self, who: str, *, client_id: str | None = None, will: Will | None = None
    ) -> MqttBus:
        """Return a session of ``who`` that is not started."""
        bus = MqttBus(
            self.endpoint(who),
            client_id or secrets.token_hex(16),
            clock=SystemClock(),
            rng=random.Random(1),
        )
        if will is not None:
            bus.set_will(lambda _: will)
        self.sessions.append(bus)
        return bus

    async def enter(self, who: str, will: Will | None = None) -> MqttBus | None:
        """Return a session of ``who``, or None when the broker lets it not in."""
        bus = self.bus(who, will=will)
        await bus.start()
        await until(lambda: bus.connected or bus.trouble, "an answer of the broker")
        if bus.connected:
            return bus
        await bus.close()
        return None

    async def controller(self) -> MqttBus:
        """Return a session of the controller."""
        bus = await self.enter("controller")
        assert bus is not None
        return bus

    async def end(self) -> None:
        """Close every session and stop the broker."""
        for bus in self.sessions:
            await bus.close()
        await self.yard.end()

    async def heard_from(self, who: str, payload: bytes = b"mine") -> set[str]:
        """Return which of all topics ``who`` can publish to, as the controller hears.

        Each is tried without and with an acknowledgement, and retained.
        """
        controller = await self.controller()
        heard: set[str] = set()
        fenced: list[bytes] = []

        def hear(message: Message) -> None:
            if message.payload == payload and not message.retained:
                heard.add(message.topic)
            fenced.extend([message.payload] if message.payload == FENCE else [])

        await controller.subscribe(f"{topics.ROOT}/#", hear)
        await self.publish_all(who, (*EVERY, *UNKNOWN), payload)
        await controller.publish(topics.CONTROLLER_STATE, FENCE)
        await until(lambda: fenced, "the controller's own message")
        return heard

    async def publish_all(
        self, who: str, wanted: Iterable[str], payload: bytes
    ) -> None:
        """Have ``who`` publish to each of ``wanted``, in every way there is."""
        bus = await self.enter(who)
        if bus is None:
            return
        for topic in wanted:
            bus.publish_fast(topic, payload)
        for topic in wanted:
            for _ in range(2):  # mosquitto hangs up at what was not allowed before
                with contextlib.suppress(QuarterdeckError):
                    await bus.publish(topic, payload, retain=True)
                    break
                await bus.close()
                bus = await self.enter(who)
                assert bus is not None

    async def heard_by(self, who: str, own: str | None) -> set[str]:
        """Return which of all topics ``who`` hears, by any filter.

        Args:
            who: Who listens.
            own: A topic that it may read, to know when all has arrived.
        """
        controller = await self.controller()
        bus = await self.enter(who)
        if bus is None:
            return set()
        heard: set[str] = set()
        fenced: list[bytes] = []

        def hear(message: Message) -> None:
            heard.add(message.topic)
            fenced.extend([message.payload] if message.payload == FENCE else [])

        for pattern in (*EVERY, *UNKNOWN, *WILD):
            with contextlib.suppress(RejectedError):  # nats says so, mosquitto never
                await bus.subscribe(pattern, hear)
        close = (it for it in UNKNOWN if it.startswith(f"{topics.ROOT}/"))
        for topic in (*EVERY, *close):
            await controller.publish(topic, b"secret", retain=True)
        if own is not None:
            await controller.publish(own, FENCE)
            await until(lambda: fenced, "the message that is allowed")
        with contextlib.suppress(RejectedError):
            await bus.subscribe(topics.ROOT, hear)  # what was on its way is here
        return heard

    async def kept(self) -> dict[str, bytes]:
        """Return what the broker keeps, as a controller that comes late finds it."""
        controller = await self.controller()
        found: dict[str, bytes] = {}
        await controller.subscribe(
            f"{topics.ROOT}/#", lambda m: found.__setitem__(m.topic, m.payload)
        )
        await controller.publish(f"{topics.ROOT}/fence", FENCE)
        await until(lambda: FENCE in found.values(), "the fence")
        return {topic: it for topic, it in found.items() if it != FENCE}
