"""A real broker, the controller's halves of the protocol, and agents as processes."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from quarterdeck_agent.status import read_status
from quarterdeck_controller.broker.embedded import EmbeddedBroker
from quarterdeck_controller.broker.nats import NatsBroker
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.enrol import write_bundle
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.catalog import Catalog, Release
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.server import MetadataServer
from quarterdeck_controller.repository.timekeeper import Timekeeper
from quarterdeck_controller.transfer.needs import NeedListener
from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import Assignment, Probation
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.reported import Reported, SessionState
from quarterdeck_shared.telemetry.window import Ack, Window
from tests.support.brokers import free_port, until
from tests.support.identities import device_identity, write_identity
from tests.support.releases import write_variants

CLASS = "cam"
WIDTH = 64
GOOD_WEIGHT = 1 / WIDTH
BOOT = 4711
PATIENCE_S = 30.0


@dataclass
class Seen:
    """What one device has said."""

    states: list[SessionState] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    events: list[StepEvent] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)

    def outcome(self, sequence: int) -> str | None:
        """How the assignment stands, as reported last."""
        update = self.reported[-1].update if self.reported else None
        told = update is not None and update.sequence == sequence
        return update.outcome if update is not None and told else None


@dataclass
class Site:
    """One fleet home with its broker, and the agents that were started."""

    folder: Path
    home: Home
    broker: EmbeddedBroker
    bus: MqttBus
    catalog: Catalog
    acknowledge: bool = True
    seen: dict[str, Seen] = field(default_factory=dict)
    agents: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    acking: set["asyncio.Task[None]"] = field(default_factory=set)

    def hear(self, message: Message) -> None:
        """Note what a device says, and acknowledge its windows."""
        origin = topics.parse_up(message.topic)
        assert origin is not None
        seen = self.seen.setdefault(origin.device, Seen())
        match origin.leaf:
            case topics.UP_STATE:
                seen.states.append(SessionState.decode(message.payload))
            case topics.UP_REPORTED:
                seen.reported.append(Reported.decode(message.payload))
            case topics.UP_EVENT:
                seen.events.append(StepEvent.decode(message.payload))
            case topics.UP_TELEMETRY:
                window = Window.decode(message.payload)
                seen.windows.append(window)
                self._acknowledge(origin.device, window)
            case _:
                pass

    def _acknowledge(self, device: str, window: Window) -> None:
        if self.acknowledge:
            ack = Ack(boot=window.boot, sequences=(window.sequence,))
            topic = topics.down(device, topics.DOWN_ACK)
            self._spawn(topic, ack.encode())

    def announce(self, state: SessionState) -> None:
        """Say that the controller is there."""
        self._spawn(topics.CONTROLLER_STATE, state.encode(), retain=True)

    def _spawn(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        task = asyncio.create_task(self._send(topic, payload, retain=retain))
        self.acking.add(task)
        task.add_done_callback(self.acking.discard)

    async def _send(self, topic: str, payload: bytes, *, retain: bool) -> None:
        with suppress(TransientError):
            await self.bus.publish(topic, payload, retain=retain)

    def release(self, version: int, weight: float = GOOD_WEIGHT) -> Release:
        """Sign a version whose model is right only with the good weight."""
        folder = self.folder / f"variants-{version}"
        variants = write_variants(
            folder, classes=(CLASS,), weight=weight, home=self.home
        )
        return create_release(
            self.home, variants, "model", version, SystemClock(), trial=trusting
        )

    async def enrol(self, device: str, *, period_s: float = 0.5) -> Path:
        """Return the bundle of a device with a folder of samples."""
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        np.save(samples / "one.npy", np.ones(WIDTH, np.float32))
        (samples / "labels.csv").write_text("file,label\none.npy,0\n")
        await self.broker.admit(Admission((Grant(device, CLASS),)))
        self.seen[device] = Seen()
        bundle = write_bundle(
            self.home,
            device,
            CLASS,
            self.folder / device,
            SystemClock(),
            source=samples,
            interval_s=0.02,
            telemetry_period_s=period_s,
        )
        authority = Authority.open(self.home.authority)
        write_identity(bundle, device_identity(authority, device, CLASS))
        return bundle

    async def assign(
        self, device: str, release: Release, sequence: int, *, seconds: float = 0.3
    ) -> None:
        """Have ``device`` run its variant of ``release``."""
        now = datetime.now(UTC)
        assignment = Assignment(
            device=device,
            device_class=CLASS,
            sequence=sequence,
            issued=now,
            expires=now + timedelta(days=1),
            release=release.id,
            target=release.variants[CLASS].target,
            probation=Probation(seconds=seconds, max_errors=0),
        )
        envelope = Director(self.home).sign(assignment)
        topic = topics.down(device, topics.DOWN_ASSIGNMENT)
        await self.bus.publish(topic, envelope, retain=True)

    def start(self, bundle: Path) -> "subprocess.Popen[bytes]":
        """Start an agent as a process; its log lies in its bundle."""
        with (bundle / "log").open("ab") as log:
            agent = subprocess.Popen(command(bundle, "run"), stdout=log, stderr=log)
        self.agents.append(agent)
        return agent

    async def until_outcome(self, device: str, sequence: int, outcome: str) -> None:
        """Wait until the device reports that."""
        await until(
            lambda: self.seen[device].outcome(sequence) == outcome,
            f"{outcome} of {sequence}",
            timeout_s=PATIENCE_S,
        )


def command(bundle: Path, verb: str, *more: str) -> list[str]:
    """Return the command line of an agent."""
    program = Path(sys.executable).with_name("quarterdeck-agent")
    return [str(program), verb, "--config", str(bundle / "agent.toml"), *more]


def status(bundle: Path) -> dict[str, object]:
    """Return what ``quarterdeck-agent status --json`` says."""
    done = subprocess.run(
        command(bundle, "status", "--json"), capture_output=True, check=True
    )
    shown = json.loads(done.stdout)
    assert isinstance(shown, dict)
    return shown


async def until_status(
    bundle: Path, holds: Callable[[dict[str, object]], object], what: str
) -> dict[str, object]:
    """Wait until the status of an agent is so, and return it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            shown = read_status(bundle / "state")
            if "active" in shown and holds(shown):
                return shown
            await asyncio.sleep(0.02)
    raise AssertionError(what)


async def stop(
    agent: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGTERM
) -> int:
    """Ask an agent to stop and return its exit code."""
    agent.send_signal(how)
    return await asyncio.to_thread(agent.wait, 10)


def alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@asynccontextmanager
async def running_site(folder: Path) -> AsyncIterator[Site]:
    """Run a site; agents that are still there at the end are killed."""
    clock, port = SystemClock(), free_port()
    settings = Settings(
        fleet="test fleet",
        classes=(CLASS,),
        chunk_bytes=1024,
        test=True,
        broker=BrokerSettings(port=port),
    )
    home = create_home(folder / "home", settings, clock)
    authority = Authority.open(home.authority, clock)
    broker = NatsBroker(
        home.broker,
        "127.0.0.1",
        port,
        ca=authority.root_file,
        certificate=home.authority / "broker.pem",
        key=home.authority / "broker.key",
        clock=clock,
    )
    await broker.start()
    endpoint = broker.endpoint(
        home.authority / "controller.pem", home.authority / "controller.key"
    )
    bus = MqttBus(endpoint, "controller", clock=clock, rng=random.Random(1))
    catalog = Catalog(home)
    site = Site(folder, home, broker, bus, catalog)
    loops = await _controller_parts(site)
    try:
        yield site
    finally:
        for agent in site.agents:
            agent.kill()
            agent.wait()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, *site.acking, return_exceptions=True)
        await bus.close()
        await broker.stop()


async def _controller_parts(site: Site) -> list["asyncio.Task[None]"]:
    clock = SystemClock()
    publisher = Publisher(
        site.bus,
        site.catalog.read_chunk,
        lambda artifact: topics.chunks(CLASS, artifact),
        stream=BOOT,
        clock=clock,
    )
    keeper = Timekeeper(Repository(site.home, clock), clock)
    metadata = MetadataServer(site.bus, keeper.read)
    await site.bus.start()
    await site.bus.wait_connected(10)
    for leaf in (
        topics.UP_STATE,
        topics.UP_REPORTED,
        topics.UP_EVENT,
        topics.UP_TELEMETRY,
    ):
        await site.bus.subscribe(topics.up_any(leaf), site.hear)
    await NeedListener(site.bus, publisher).subscribe()
    connections = iter(range(1, 100))

    def announce() -> None:
        state = SessionState(online=True, boot=BOOT, connection=next(connections))
        site.announce(state)

    site.bus.on_connected(announce)
    announce()
    return [
        asyncio.create_task(publisher.run()),
        asyncio.create_task(metadata.run()),
    ]


def rss_mb(pid: int) -> float:
    """Return the proportional memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(os.strerror(3))
