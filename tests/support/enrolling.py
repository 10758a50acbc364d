"""A whole controller over a real broker, and machines that it invites."""

import asyncio
import itertools
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from quarterdeck_agent.identity.certificate import Certificate, read_leaf
from quarterdeck_agent.identity.pem import take_apart
from quarterdeck_agent.settings import Settings as AgentSettings
from quarterdeck_agent.settings import load_settings
from quarterdeck_controller.fleet.inventory import enrol, known
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.enrol import write_bundle
from quarterdeck_controller.identity.tokens import invite
from quarterdeck_controller.service import serve
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared.clock import SystemClock
from tests.support.brokers import free_port

CLASS = "cam"
BOOT = 4711
PROGRAM = Path(sys.executable).with_name("quarterdeck-agent")


@dataclass
class Fleet:
    """A home whose controller can be started and stopped; machines are folders."""

    folder: Path
    home: Home
    agents: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    serving: "asyncio.Task[None] | None" = None
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def newcomer(self) -> Path:
        """Return the bundle of a device that there was not before."""
        return self.invite(f"cam-{next(self.numbers)}")[0]

    @contextmanager
    def records(self) -> Iterator[Records]:
        """Give the store to write to, as a command of the operator does."""
        with Store.open(self.home.database) as store, store.write() as records:
            yield records

    def invite(self, *devices: str, again: bool = False) -> list[Path]:
        """Record devices and return their bundles, which share one claim."""
        clock = SystemClock()
        authority = Authority.open(self.home.authority, clock)
        with self.records() as records:
            now = clock.now()
            those = [
                known(records, it, CLASS)
                if again
                else enrol(records, it, CLASS, tags=(), now=now)
                for it in devices
            ]
            given = invite(records, authority, those, now=now)
        return [
            write_bundle(
                self.home,
                it.device,
                CLASS,
                self.folder / (f"{it.device}-again" if again else it.device),
                clock,
                invitation=it,
                telemetry_period_s=0.5,
            )
            for it in given
        ]

    async def start(self) -> None:
        """Have the controller, and its broker, run."""
        up = asyncio.Event()

        def ready(where: str, *, connected: bool) -> None:
            assert connected, where
            up.set()

        self.serving = asyncio.create_task(
            serve(self.home, SystemClock(), random.Random(1), boot=BOOT, ready=ready)
        )
        waiting = asyncio.create_task(up.wait())
        await asyncio.wait(
            {self.serving, waiting}, timeout=20, return_when="FIRST_COMPLETED"
        )
        waiting.cancel()
        if self.serving.done():
            self.serving.result()
        assert up.is_set()

    async def stop(self) -> None:
        """End the controller and its broker."""
        if self.serving is not None:
            self.serving.cancel()
            with suppress(asyncio.CancelledError):
                await self.serving
            self.serving = None

    def halt(self) -> None:
        """End every agent, as a power cut does."""
        for agent in self.agents:
            agent.kill()
            agent.wait()
        self.agents.clear()

    def run(
        self, bundle: Path, environment: Mapping[str, str] = MappingProxyType({})
    ) -> "subprocess.Popen[bytes]":
        """Start an agent as a process; its log lies in its bundle."""
        with (bundle / "log").open("ab") as log:
            agent = subprocess.Popen(
                [PROGRAM, "run", "--config", bundle / "agent.toml"],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        self.agents.append(agent)
        return agent


async def command(
    bundle: Path,
    verb: str,
    *more: str,
    given: bytes = b"",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the agent to its end, without holding the loop up."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *(verb, "--config", str(bundle / "agent.toml"), *more),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await process.communicate(given)
    assert process.returncode is not None
    return subprocess.CompletedProcess(
        verb, process.returncode, out.decode(), err.decode()
    )


def settings(bundle: Path) -> AgentSettings:
    """Return what an agent of ``bundle`` is told."""
    return load_settings(bundle / "agent.toml")


def certificate(bundle: Path) -> Certificate | None:
    """Return the certificate in use by the agent of ``bundle``."""
    path = bundle / "state" / "identity.pem"
    if not path.exists():
        return None
    return read_leaf(take_apart(path.read_bytes()).chain)


@asynccontextmanager
async def running_fleet(
    folder: Path, kind: str = "nats", *, lives: timedelta = timedelta(days=30)
) -> AsyncIterator[Fleet]:
    """Run a controller whose devices' certificates live so long."""
    given = Settings(
        fleet="test fleet",
        classes=(CLASS,),
        broker=BrokerSettings(kind=kind, port=free_port()),
        certificate_days=lives / timedelta(days=1),
        test=True,
    )
    home = create_home(folder / "home", given, SystemClock())
    fleet = Fleet(folder, home)
    try:
        await fleet.start()
        yield fleet
    finally:
        fleet.halt()
        await fleet.stop()
