"""A real broker held by an attacker, and real agents that know nothing but it.

One ground serves many tests: a fleet home, its broker, and agents that run ``model@1``.
Agents are started ahead, so that a test finds one that serves already. Each test takes
a device and a copy of the home of its own; nothing of an earlier test reaches it.
"""

import asyncio
import random
import secrets
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import numpy as np

from quarterdeck_controller.broker.embedded import EmbeddedBroker
from quarterdeck_controller.broker.mosquitto import MosquittoBroker
from quarterdeck_controller.broker.nats import NatsBroker
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.authority import Authority, Identity
from quarterdeck_controller.identity.enrol import write_bundle
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.server import replies
from quarterdeck_controller.repository.timekeeper import Timekeeper
from quarterdeck_controller.transfer.needs import NeedListener
from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.metadata import MetadataRequest
from quarterdeck_shared.reported import Reported, SessionState
from quarterdeck_shared.telemetry.window import Ack, Window
from quarterdeck_shared.transfer import Need
from tests.support.attacks import World
from tests.support.brokers import free_port, until
from tests.support.identities import device_identity, write_identity
from tests.support.releases import ManualClock, write_variants
from tests.support.site import command

CLASS, OTHER_CLASS = "cam", "gateway"
WIDTH = 64
DEVICES = 400
WARM = 2
BOOT = 4711
PATIENCE_S = 30.0
LEAVES = (
    topics.UP_STATE,
    topics.UP_REPORTED,
    topics.UP_EVENT,
    topics.UP_TELEMETRY,
    topics.UP_REFUSAL,
)

Pieces = Iterable[bytes] | AsyncIterator[bytes]
Answer = Callable[[MetadataRequest], Pieces]
Tamper = Callable[[str, int, bytes], bytes]


@dataclass
class Device:
    """One agent and all that it has said."""

    name: str
    bundle: Path
    identity: Identity
    agent: "subprocess.Popen[bytes] | None" = None
    answer: Answer | None = None
    states: list[SessionState] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    events: list[StepEvent] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    refusals: list[bytes] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """The folder in which it remembers."""
        return self.bundle / "state"

    def start(self) -> None:
        """Start the agent as a process; its log lies in its bundle."""
        with (self.bundle / "log").open("ab") as log:
            self.agent = subprocess.Popen(
                command(self.bundle, "run"), stdout=log, stderr=log
            )

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the agent and return its exit code."""
        assert self.agent is not None
        self.agent.send_signal(how)
        return await asyncio.to_thread(self.agent.wait, 10)

    def log(self) -> str:
        """What the agent has logged."""
        return (self.bundle / "log").read_text()

    def end(self) -> None:
        """Make sure that no process is left."""
        if self.agent is not None and self.agent.poll() is None:
            self.agent.kill()
            self.agent.wait()


@dataclass
class Ground:
    """Where attacks take place. The attacker is whoever holds ``bus``.

    Attributes:
        old: The repository's files before ``model@2`` was released.
        tamper: What is done to each chunk of an artifact before it is published.
        withheld: Artifacts whose chunks nobody publishes.
        extra: Chunks of artifacts that no release knows.
    """

    folder: Path
    home: Home
    broker: EmbeddedBroker
    bus: MqttBus
    catalog: Catalog
    authority: Authority
    old: dict[str, bytes] = field(default_factory=dict)
    state: Path | None = None
    devices: dict[str, Device] = field(default_factory=dict)
    warm: deque[Device] = field(default_factory=deque)
    tamper: Tamper | None = None
    withheld: set[str] = field(default_factory=set)
    extra: dict[str, list[bytes]] = field(default_factory=dict)
    work: set["asyncio.Task[None]"] = field(default_factory=set)
    names: Iterator[str] = field(default_factory=lambda: iter(_names()))

    # -- devices ------------------------------------------------------------------

    def enrol(self) -> Device:
        """Return the next device, not started, that runs ``model@1`` already."""
        name = next(self.names)
        bundle = write_bundle(
            self.home,
            name,
            CLASS,
            self.folder / "devices" / name,
            SystemClock(),
            source=self.folder / "samples",
            interval_s=0.03,
            telemetry_period_s=0.2,
        )
        if self.state is not None:
            shutil.copytree(self.state, bundle / "state", dirs_exist_ok=True)
        identity = device_identity(self.authority, name, CLASS)
        write_identity(bundle, identity)
        device = self.devices[name] = Device(name, bundle, identity)
        return device

    def warm_up(self) -> None:
        """Start agents ahead."""
        while len(self.warm) < WARM:
            device = self.enrol()
            device.start()
            self.warm.append(device)

    async def take(self) -> Device:
        """Return a device whose agent serves ``model@1`` and is connected."""
        self.warm_up()
        device = self.warm.popleft()
        await until(
            lambda: device.states and device.windows and device.windows[-1].label_ok,
            f"{device.name} serving",
            timeout_s=PATIENCE_S,
        )
        self.warm_up()
        return device

    @asynccontextmanager
    async def session(
        self, identity: Identity, *, client: str | None = None
    ) -> AsyncIterator[MqttBus]:
        """Give a session on the broker to whoever holds ``identity``."""
        folder = self.folder / "sessions" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        identity.write(folder / "certificate.pem", folder / "key.pem")
        endpoint = self.broker.endpoint(folder / "certificate.pem", folder / "key.pem")
        client, clock = client or secrets.token_hex(16), SystemClock()
        bus = MqttBus(endpoint, client, clock=clock, rng=random.Random(1))
        await bus.start()
        try:
            yield bus
        finally:
            await bus.close()

    async def admit(
        self,
        *,
        claims: tuple[str, ...] = (),
        generations: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Admit every device, with its first certificate unless another is named."""
        grants = (Grant(it, CLASS, (generations.get(it, 1),)) for it in _names())
        await self.broker.admit(Admission(tuple(grants), claims))

    # -- what the attacker's controller does -----------------------------------------

    def spawn(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish without waiting for it."""
        self.run_beside(self._send(topic, payload, retain=retain))

    def run_beside(self, work: Coroutine[object, object, None]) -> None:
        """Have ``work`` done while the test goes on."""
        task = asyncio.create_task(work)
        self.work.add(task)
        task.add_done_callback(self.work.discard)

    async def announce(self, timestamp: bytes) -> None:
        """Wake every device with a retained timestamp."""
        await self.bus.publish(topics.METADATA_TIMESTAMP, timestamp, retain=True)

    async def _send(self, topic: str, payload: bytes, *, retain: bool) -> None:
        with suppress(TransientError):
            await self.bus.publish(topic, payload, retain=retain)

    def hear(self, message: Message) -> None:
        """Note what a device says, and answer what the honest controller would."""
        origin = topics.parse_up(message.topic)
        device = self.devices.get(origin.device) if origin else None
        if origin is None or device is None or not message.payload:
            return
        match origin.leaf:
            case topics.UP_STATE:
                device.states.append(SessionState.decode(message.payload))
            case topics.UP_REPORTED:
                device.reported.append(Reported.decode(message.payload))
            case topics.UP_EVENT:
                device.events.append(StepEvent.decode(message.payload))
            case topics.UP_REFUSAL:
                device.refusals.append(message.payload)
            case topics.UP_TELEMETRY:
                window = Window.decode(message.payload)
                device.windows.append(window)
                ack = Ack(boot=window.boot, sequences=(window.sequence,))
                self.spawn(topics.down(device.name, topics.DOWN_ACK), ack.encode())
            case topics.UP_METADATA:
                request = MetadataRequest.decode(message.payload)
                self.run_beside(self._serve(device, request))
            case _:
                pass

    async def _serve(self, device: Device, request: MetadataRequest) -> None:
        answer = device.answer or self.honest
        topic = topics.down(device.name, topics.DOWN_METADATA)
        pieces = answer(request)
        with suppress(TransientError):
            if isinstance(pieces, AsyncIterator):
                async for piece in pieces:
                    await self.bus.publish(topic, piece)
                return
            for piece in pieces:
                await self.bus.publish(topic, piece)

    def honest(self, request: MetadataRequest) -> Iterable[bytes]:
        """Answer as the real controller does, from the home that nobody changed."""
        clock = SystemClock()
        data = Timekeeper(Repository(self.home, clock), clock).read(request.name)
        return [reply.encode() for reply in replies(request.id, data)]

    def read_chunk(self, artifact: str, number: int) -> bytes | None:
        """Return a chunk as the attacker has it published, or None."""
        if artifact in self.extra:
            chunk: bytes | None = self.extra[artifact][number]
        else:
            chunk = self.catalog.read_chunk(artifact, number)
        if chunk is None or self.tamper is None:
            return chunk
        return self.tamper(artifact, number, chunk)

    # -- the beginning ----------------------------------------------------------------

    async def found(self) -> None:
        """Release two versions, and have a device run the first."""
        repository = Repository(self.home, SystemClock())
        self._release(1, 1 / WIDTH)
        self.old = _served(self.home)
        self._release(2, 1.001 / WIDTH)
        self._release(3, 0.999 / WIDTH)
        await self.announce(repository.timestamp())
        device = self.enrol()
        device.start()
        world = World(self.folder / "first", home=self.home, clock=present())
        envelope = world.assign(1, device=device.name, probation=BRIEF)
        topic = topics.down(device.name, topics.DOWN_ASSIGNMENT)
        await self.bus.publish(topic, envelope, retain=True)
        await until(
            lambda: any(
                told.update is not None and told.update.outcome == "committed"
                for told in device.reported
            ),
            "the first device's commit",
            timeout_s=PATIENCE_S,
        )
        assert await device.stop() == 0
        self.state = self.folder / "state"
        shutil.copytree(device.state, self.state, ignore=_of_one_device)

    def _release(self, version: int, weight: float) -> None:
        folder = self.folder / f"variants-{version}"
        variants = write_variants(folder, weight=weight, home=self.home)
        create_release(
            self.home, variants, "model", version, SystemClock(), trial=trusting
        )

    async def close(self) -> None:
        """End every agent and all work."""
        for device in self.devices.values():
            device.end()
        for task in tuple(self.work):
            task.cancel()
        await asyncio.gather(*self.work, return_exceptions=True)


BRIEF = {"seconds": 0.1, "max_errors": 0}
"""A probation that takes no time of a test."""

_OWN = ("identity.pem", "seal.key", "status.json", "outbox", "lock", "*.lock", "link*")


def _of_one_device(_folder: str, names: list[str]) -> set[str]:
    """Return what another device must not get a copy of."""
    return shutil.ignore_patterns(*_OWN)(_folder, names)


def present() -> ManualClock:
    """Return a clock that stands at the present and can be moved."""
    return ManualClock(datetime.now(UTC))


def ago(**span: float) -> datetime:
    """Return a moment of the past."""
    return present().now() - timedelta(**span)


def _names() -> list[str]:
    return [f"cam-{number:03}" for number in range(DEVICES)]


def _served(home: Home) -> dict[str, bytes]:
    return {
        str(file.relative_to(home.repository)): file.read_bytes()
        for file in home.repository.rglob("*")
        if file.suffix in {".json", ".idx"}
    }


@asynccontextmanager
async def hostile_ground(folder: Path, kind: str = "nats") -> AsyncIterator[Ground]:
    """Run a ground on a broker of ``kind`` until it is left."""
    clock, port = SystemClock(), free_port()
    settings = Settings(
        fleet="test fleet",
        classes=(CLASS, OTHER_CLASS),
        chunk_bytes=1024,
        broker=BrokerSettings(port=port),
        test=True,
    )
    home = create_home(folder / "home", settings, clock)
    _write_samples(folder / "samples")
    authority = Authority.open(home.authority, clock)
    make = NatsBroker if kind == "nats" else MosquittoBroker
    broker = make(
        home.broker,
        "127.0.0.1",
        port,
        ca=authority.root_file,
        certificate=home.authority / "broker.pem",
        key=home.authority / "broker.key",
        clock=clock,
    )
    await broker.admit(Admission(tuple(Grant(it, CLASS) for it in _names())))
    await broker.start()
    endpoint = broker.endpoint(
        home.authority / "controller.pem", home.authority / "controller.key"
    )
    client = secrets.token_hex(16)
    bus = MqttBus(endpoint, client, clock=clock, rng=random.Random(1))
    ground = Ground(folder, home, broker, bus, Catalog(home), authority)
    publisher = Publisher(
        bus,
        ground.read_chunk,
        lambda artifact: topics.chunks(CLASS, artifact),
        stream=BOOT,
        clock=clock,
        may_read=lambda _device, artifact: artifact not in ground.withheld,
    )
    await bus.start()
    await bus.wait_connected(10)
    try:
        for leaf in (*LEAVES, topics.UP_METADATA):
            await bus.subscribe(topics.up_any(leaf), ground.hear)
        await NeedListener(bus, publisher).subscribe()
        ground.run_beside(publisher.run())
        state = SessionState(online=True, boot=BOOT, connection=1)
        await bus.publish(topics.CONTROLLER_STATE, state.encode(), retain=True)
        await ground.found()
        ground.warm_up()
        yield ground
    finally:
        await ground.close()
        await bus.close()
        await broker.stop()


def _write_samples(folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "one.npy", np.ones(WIDTH, np.float32))
    (folder / "labels.csv").write_text("file,label\none.npy,0\n")
