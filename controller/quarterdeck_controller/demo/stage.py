"""What every act of the demo needs: the fleet's parts, and the operator's hands."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from quarterdeck_controller.demo.material import MODEL, Material, float_model
from quarterdeck_controller.demo.observe import Observer, Sight
from quarterdeck_controller.demo.processes import Processes
from quarterdeck_controller.demo.screen import Screen
from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.enrol import write_bundle
from quarterdeck_controller.identity.tokens import invite
from quarterdeck_controller.optimize.data.samples import Data
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.measure.machine import machine_isa
from quarterdeck_controller.optimize.optimizer import (
    Optimization,
    Options,
    optimize_all,
)
from quarterdeck_controller.optimize.profile import DEFAULT_CLASSES, load_profile
from quarterdeck_controller.optimize.recipe import Kind
from quarterdeck_controller.optimize.write import write
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.attest import attester
from quarterdeck_controller.release.catalog import Catalog, Release
from quarterdeck_controller.release.trial import Trial, run_once
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.roles import PROVENANCE
from quarterdeck_controller.rollout.create import create
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.state import ENDED
from quarterdeck_controller.store.records import Rollout
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.ids import release_id

CHUNK_BYTES = 4096
"""Small chunks, so that an artifact of 400 kB takes a hundred of them."""

TRANSFER_BYTES_S = 1_000_000
SAMPLE_EVERY_S = 0.04
WINDOW_S = 1.0
START_TIMEOUT_S = 45.0
ROLLOUT_TIMEOUT_S = 60.0

FLEET = {
    "gateway-1": "gateway-x86-vnni",
    "gateway-2": "gateway-x86-vnni",
    "gateway-3": "gateway-x86-vnni",
    "legacy-1": "gateway-x86",
    "legacy-2": "gateway-x86",
    "board-1": "board-arm64",
    "board-2": "board-arm64",
    "board-3": "board-arm64",
}
LATE = {"late-1": "board-arm64", "late-2": "board-arm64"}
"""Devices that are enrolled only in the acts that need them."""

CAREFUL = {
    "waves": ("3", "60%", "100%"),
    "soak_s": 2,
    "deadline_s": 40,
    "hold_s": 30,
    "probation_s": 1,
    "accuracy_drop": 3,
    "min_labelled": 50,
    "baseline_s": 600,
}
"""The rollout policy; every time in it is far shorter than in earnest."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The set on which all acts play.

    Attributes:
        folder: Where everything of this run is.
    """

    folder: Path
    home: Home
    store: Store
    material: Material
    processes: Processes
    observer: Observer
    screen: Screen
    clock: Clock

    @property
    def catalog(self) -> Catalog:
        """Return what is released."""
        return Catalog(self.home)

    def optimize(
        self,
        version: int,
        out: str,
        *,
        calibration: Path | None = None,
        evaluation: Path | None = None,
        kinds: tuple[Kind, ...] = (),
        time_budget_s: float = inf,
    ) -> tuple[Evaluation, ...]:
        """Quantize float model ``version`` for every class into the folder ``out``."""
        results = self.search(
            version,
            out,
            calibration=calibration,
            evaluation=evaluation,
            kinds=kinds,
            time_budget_s=time_budget_s,
        )
        return tuple(result.evaluation for result in results)

    def search(
        self,
        version: int,
        out: str,
        *,
        calibration: Path | None = None,
        evaluation: Path | None = None,
        kinds: tuple[Kind, ...] = (),
        time_budget_s: float = inf,
    ) -> tuple[Optimization, ...]:
        """Do the same and return everything that was found."""
        data = Data(
            calibration or self.material.calibration,
            evaluation or self.material.evaluation,
        )
        labels = tuple(self.material.labels.read_text("utf-8").split())
        results = optimize_all(
            float_model(version),
            data,
            [load_profile(name) for name in DEFAULT_CLASSES],
            options=Options(
                name=MODEL, labels=labels, kinds=kinds, time_budget_s=time_budget_s
            ),
            on_progress=lambda step: self.screen.status(f"optimize: {step.sentence}"),
        )
        vouch = attester(Repository(self.home, self.clock).signers(PROVENANCE))
        for result in results:
            write(result, self.folder / out, keep_refused=True, attest=vouch)
        return results

    def release(
        self,
        version: int,
        out: str,
        *,
        override: str | None = None,
        trial: Trial = run_once,
    ) -> Release:
        """Sign the variants in the folder ``out`` as ``version``."""
        return create_release(
            self.home,
            self.folder / out,
            MODEL,
            version,
            self.clock,
            override=override,
            trial=trial,
        )

    def enrol(self, devices: dict[str, str]) -> None:
        """Enter ``devices`` and write the bundles with which they enrol themselves."""
        authority, now = (
            Authority.open(self.home.authority, self.clock),
            self.clock.now(),
        )
        with self.store.write() as records:
            entered = [enrol(records, *it, now=now) for it in devices.items()]
            invitations = invite(records, authority, entered, now=now)
        for (device, device_class), invitation in zip(
            devices.items(), invitations, strict=True
        ):
            write_bundle(
                self.home,
                device,
                device_class,
                self.bundle(device),
                self.clock,
                invitation=invitation,
                source=self.material.samples(device),
                interval_s=SAMPLE_EVERY_S,
                simulate_isa=simulated_isa(device_class),
                telemetry_period_s=WINDOW_S,
            )

    def bundle(self, device: str) -> Path:
        """Return the folder of a device's identity and settings."""
        return self.folder / "devices" / device

    def start_agent(self, device: str) -> None:
        """Start the agent of ``device``."""
        config = str(self.bundle(device) / "agent.toml")
        self.processes.start(device, "quarterdeck-agent", ["run", "--config", config])

    def wait_online(self, devices: Sequence[str]) -> Sight:
        """Return once all ``devices`` are heard of."""
        return self.observer.wait(
            "all devices online",
            lambda sight: sight.online() >= set(devices),
            timeout_s=START_TIMEOUT_S,
            telling=lambda sight: f"{len(sight.online())} devices online",
        )

    def begin_rollout(self, release: str, selector: str, **policy: object) -> Rollout:
        """Have ``release`` rolled out; ``policy`` is what differs from ``CAREFUL``."""
        asked = Policy.parse({**CAREFUL, **policy})
        with self.store.write() as records:
            return create(
                records, self.catalog, release, selector, asked, now=self.clock.now()
            )

    def wait_ended(self, rollout: Rollout) -> Rollout:
        """Return the rollout once it has ended, well or badly."""
        waves = len(Policy.load(rollout.policy).waves)
        sight = self.observer.wait(
            f"the rollout of {rollout.release}",
            lambda sight: sight.rollouts[rollout.id].state in ENDED,
            timeout_s=ROLLOUT_TIMEOUT_S,
            telling=lambda sight: _progress(sight, rollout.id, waves),
        )
        return sight.rollouts[rollout.id]

    def roll_out(self, release: str, selector: str, **policy: object) -> Rollout:
        """Roll ``release`` out and return the rollout once it has ended."""
        return self.wait_ended(self.begin_rollout(release, selector, **policy))

    def received(self, device: str) -> tuple[int, int]:
        """Return bytes received and received twice for the newest assignment."""
        with self.store.read() as records:
            report = records.reports.get(device)
        update = report.reported.update if report else None
        return (update.received_bytes, update.duplicate_bytes) if update else (0, 0)


def make_home(folder: Path, clock: Clock) -> Home:
    """Make the demo's fleet home, its broker on a free port of loopback."""
    settings = Settings(
        fleet="demo",
        classes=DEFAULT_CLASSES,
        broker=BrokerSettings(port=_free_port()),
        chunk_bytes=CHUNK_BYTES,
        test=True,
        transfer_bytes_s=TRANSFER_BYTES_S,
    )
    return create_home(folder / "home", settings, clock)


def simulated_isa(device_class: str) -> tuple[str, ...]:
    """Return what an agent must pretend so that this machine passes for the class."""
    needed = load_profile(device_class).isa
    return () if set(needed) <= set(machine_isa()) else tuple(needed)


def v(version: int) -> str:
    """Return the id of the demo's release ``version``."""
    return release_id(MODEL, version)


def _progress(sight: Sight, rollout: int, waves: int) -> str:
    now = sight.rollouts[rollout]
    on = sum(1 for device in sight.standings if sight.runs(device) == now.release)
    soaking = ", soaking" if now.soak_from else ""
    return (
        f"{now.release}: {now.state}, wave {now.wave + 1} of {waves}{soaking},"
        f" on {on} of {len(sight.standings)} devices"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pause(seconds: float) -> None:
    """Wait; the demo's own loop may, nothing else does."""
    time.sleep(seconds)
