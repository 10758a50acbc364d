"""One attack: a device under it, and what the device must run and say afterwards."""

import base64
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from quarterdeck_agent.status import read_status
from quarterdeck_controller.home import Home
from quarterdeck_controller.release.server import replies
from quarterdeck_shared import topics
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import Sealed
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.metadata import MetadataRequest
from quarterdeck_shared.refusal import Refusal
from quarterdeck_shared.reported import LastUpdate, Reported
from tests.support.attacks import World
from tests.support.brokers import until
from tests.support.hostile import BRIEF, PATIENCE_S, Device, Ground, present

SECOND = "model@2"


class Siege:
    """A device that runs ``model@1``, and the attacker's copy of the fleet's home.

    Attributes:
        world: What the attacker can forge; its ``broker`` says what is served.
        device: The device, which is reached through the broker only.
    """

    def __init__(self, ground: Ground, device: Device) -> None:
        self.ground = ground
        self.device = device
        folder = ground.folder / "sieges" / device.name
        shutil.copytree(ground.home.path, folder / "home", ignore=_not_served)
        home = Home.open(folder / "home")
        self.world = World(folder, home=home, clock=present())
        device.answer = self._answer
        self._sequence = 10

    # -- what the attacker does --------------------------------------------------------

    def assign(self, sequence: int = 10, **changes: object) -> bytes:
        """Return a good assignment of ``model@2`` for the device, with ``changes``."""
        given: dict[str, object] = {"device": self.device.name, "probation": BRIEF}
        return self.world.assign(sequence, version=2, **(given | changes))

    async def send(self, envelope: bytes, *, device: str | None = None) -> None:
        """Publish an assignment, retained, as the controller does."""
        topic = topics.down(device or self.device.name, topics.DOWN_ASSIGNMENT)
        await self.ground.bus.publish(topic, envelope, retain=True)

    async def announce(self) -> None:
        """Wake the device as news of the repository would."""
        await self.ground.announce(self.world.repository.timestamp())

    def index_name(self, release: str = SECOND) -> str:
        """Return the name under which the device asks for a release's index."""
        target = self.world.catalog.release(release).variants["cam"].target
        folder, _, name = target.path.rpartition("/")
        return f"targets/{folder}/{target.sha256}.{name}"

    def current(self, role: str) -> str:
        """Return the name of a role's newest file."""
        chain = self.world.repository.chain()
        if role == "timestamp":
            return "timestamp.json"
        return f"{chain.signed()[role].version}.{role}.json"

    # -- what the device must say and run ----------------------------------------------

    async def refuses(self, *codes: Code, within_s: float = PATIENCE_S) -> StepEvent:
        """Wait for the refusal, told as an event and signed; return the event.

        The device must not have changed what it runs.
        """

        def told() -> list[StepEvent]:
            return [it for it in self.device.events if it.code is not None]

        def said() -> str:
            seen = [f"{it.event} {it.code} {it.detail}" for it in self.device.events]
            return f"{codes}; it said {seen}\n{self.device.log()[-1500:]}"

        try:
            await until(told, "a refusal", timeout_s=within_s)
        except AssertionError as error:
            raise AssertionError(said()) from error
        event = told()[-1]
        assert event.code in codes, said()
        assert event.event in {"refused", "failed"}, said()
        await self.runs("model@1")
        return event

    async def runs(self, release: str) -> None:
        """Wait until a telemetry window shows right answers by ``release`` alone.

        Both what it reports and what answers requests must be that release.
        """
        artifact = self.world.catalog.release(release).variants["cam"].artifact
        heard = len(self.device.windows)

        def answers() -> bool:
            newest = self.device.windows[heard + 1 :]
            return any(
                w.artifact == artifact[:16] and w.requests == w.label_ok > 0
                for w in newest
            )

        await until(answers, f"answers of {release}", timeout_s=PATIENCE_S)
        assert self.reported.active is not None
        assert self.reported.active.release == release
        assert self.reported.active.digest == artifact

    @property
    def reported(self) -> Reported:
        """What the device reported last."""
        return self.device.reported[-1]

    @property
    def update(self) -> LastUpdate:
        """How the newest assignment stands, as reported last."""
        assert self.reported.update is not None
        return self.reported.update

    async def outcome(self, sequence: int, outcome: str) -> LastUpdate:
        """Wait until the device reports that; return how it stands."""

        def stands() -> bool:
            told = self.reported.update
            if told is None:
                return False
            return (told.sequence, told.outcome) == (sequence, outcome)

        try:
            await until(stands, f"{outcome} of {sequence}", timeout_s=PATIENCE_S)
        except AssertionError as error:
            told = f"{error}; {self.reported.update}\n{self.device.log()[-1500:]}"
            raise AssertionError(told) from error
        return self.update

    async def heals(self, sequence: int = 50) -> None:
        """Let the honest controller in again: it must get ``model@2`` through."""
        self.world.serve_honestly()
        self.device.answer = self._answer
        self.ground.tamper = None
        await self.send(self.assign(sequence))
        await self.outcome(sequence, "committed")
        await self.runs(SECOND)

    async def silent(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that leaves no refusal behind."""
        await until(condition, what, timeout_s=PATIENCE_S)

    def status(self) -> dict[str, object]:
        """Return what ``quarterdeck-agent status`` would show."""
        return read_status(self.device.state)

    def refusals(self) -> list[Refusal]:
        """Return what the device has stated, as it is in the envelopes."""
        return [_payload(data) for data in self.device.refusals]

    def _answer(self, request: MetadataRequest) -> Iterable[bytes]:
        data = self.world.broker.answer(request.name)
        return [reply.encode() for reply in replies(request.id, data)]


def _payload(envelope: bytes) -> Refusal:
    sealed = Sealed.decode(envelope)
    return Refusal.decode(base64.b64decode(sealed.payload))


def _not_served(folder: str, names: list[str]) -> set[str]:
    """Leave out what an attack does not touch: the broker's own store and logs."""
    return {"broker", "logs"} & set(names) if Path(folder).name == "home" else set()
