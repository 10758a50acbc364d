"""One attack: a device under it, and what the device must run and say afterwards."""

import base64
import copy
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from quarterdeck_agent.status import read_status
from quarterdeck_controller.fleet.refusals import verified
from quarterdeck_controller.home import Home
from quarterdeck_controller.identity.authority import Identity
from quarterdeck_controller.release.catalog import Variant
from quarterdeck_controller.repository.server import replies
from quarterdeck_controller.repository.timekeeper import Timekeeper
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import Target
from quarterdeck_shared.attack import looks_like
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.index import Limits, PartName, cut, digest
from quarterdeck_shared.listing import Listing
from quarterdeck_shared.metadata import MetadataRequest
from quarterdeck_shared.refusal import Refusal
from quarterdeck_shared.reported import LastUpdate, Reported
from tests.support.attacks import World, sealed, signed
from tests.support.brokers import until
from tests.support.hostile import BRIEF, CLASS, PATIENCE_S, Device, Ground, present
from tests.support.identities import device_identity, write_identity

SECOND = "model@2"

Keys = tuple[CryptoSigner, ...]


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
        self.world.catalog = ground.catalog  # whatever becomes of the copy
        self._keeper = Timekeeper(self.world.repository, SystemClock())
        device.answer = self._answer
        self._heard = 0

    # -- what the attacker does --------------------------------------------------------

    def assign(
        self, sequence: int = 10, *, version: int = 2, **changes: object
    ) -> bytes:
        """Return a good assignment of ``model@2`` for the device, with ``changes``."""
        payload = self.payload(sequence, version, changes)
        return sealed(payload, self.world.key("director"))

    def payload(
        self,
        sequence: int = 10,
        version: int = 2,
        changes: Mapping[str, object] = MappingProxyType({}),
    ) -> bytes:
        """Return the bytes that the director would sign."""
        given: dict[str, object] = {"device": self.device.name, "probation": BRIEF}
        fields = {**given, **changes}
        return self.world.assignment(sequence, version=version, **fields).encode()

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

    async def accepts(self, sequence: int = 2) -> None:
        """Have the device accept the repository as it is served, running as before."""
        await self.send(self.first(sequence))
        await self.outcome(sequence, "committed")

    async def renewed(self) -> None:
        """Have every role signed anew, in a version that no device has seen."""
        chain = self.world.repository.chain()
        self.world.resign({"targets": chain.targets, **chain.delegated})

    async def recovers(self, *roles: str) -> None:
        """Replace stolen keys of the root's roles, and let the honest one in."""
        self.world.rotate(*roles)
        self.world.resign()
        await self.heals()

    def first(self, sequence: int) -> bytes:
        """Return a good assignment of ``model@1``."""
        return self.assign(sequence, version=1)

    def role(self, name: str) -> Targets:
        """Return the newest metadata of ``targets`` or a delegated role."""
        chain = self.world.repository.chain()
        return chain.targets if name == "targets" else chain.delegated[name]

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Put these files into the home again."""
        for name, data in files.items():
            self.publish(name, data)

    def replace_director(self) -> None:
        """Give the director a new key, which the home holds from then on."""
        key = CryptoSigner.generate_ed25519()
        self.redelegate("director", key)
        (self.world.home.keys / "director.pem").write_bytes(key.private_bytes)

    def permit_downgrade(self, release: str) -> None:
        """Have the class role permit to go back to ``release``."""
        path = self.world.catalog.release(release).variants["cam"].target.path
        listing = self.role("class-cam")
        custom = listing.targets[path].unrecognized_fields["custom"]
        custom["downgrade"] = "by hand"
        self.world.resign({"class-cam": listing})

    def swap_identity(self, other: str) -> None:
        """Put the identity of another device in the place of this one's."""
        identity = device_identity(self.ground.authority, other, CLASS)
        write_identity(self.device.bundle, identity)

    def listed_anew(self, release: str, *, version: int) -> Target:
        """Have the class role list a release's index under another version, too."""
        variant = self.world.catalog.release(release).variants["cam"]
        path = f"classes/cam/model-{version}.idx"
        listing = self.role("class-cam")
        file = copy.deepcopy(listing.targets[variant.target.path])
        listing.targets[path] = file
        self.world.resign({"class-cam": listing})
        return variant.target.model_copy(update={"path": path})

    def list_model(
        self, model: bytes, golden: bytes, *, limits: Limits | None = None
    ) -> bytes:
        """Have the class key sign a model by mistake; return its assignment."""
        version, files = 9, {"model.onnx": model, "golden.npz": golden}
        like = self._variant(SECOND).index
        parts = tuple(cut(_part(name), data, 1024) for name, data in files.items())
        changes = {"parts": parts, "version": version, "release": 50}
        index = like.model_copy(update=changes | {"limits": limits or like.limits})
        data = index.encode()
        path = f"classes/cam/model-{version}.idx"
        target = Target(path=path, length=len(data), sha256=digest(data))
        listed = TargetFile.from_data(path, data, ["sha256"])
        custom = Listing(release=50, created=present().now())
        listed.unrecognized_fields["custom"] = custom.model_dump(mode="json")
        listing = self.role("class-cam")
        listing.targets[path] = listed
        self.world.resign({"class-cam": listing})
        name = f"targets/classes/cam/{target.sha256}.model-{version}.idx"
        self.world.broker.instead[name] = data
        self.ground.extra[target.sha256] = [
            part[at : at + 1024]
            for part in files.values()
            for at in range(0, len(part), 1024)
        ]
        return self.assign(target=target, release=f"model@{version}")

    def again(self, envelope: bytes, *, sequence: int) -> bytes:
        """Return an assignment, signed by the director under another number."""
        payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        data = json.dumps(payload | {"sequence": sequence}).encode()
        return sealed(data, self.world.key("director"))

    def next_root(
        self, change: Callable[[Root], None], *names: str, extra: Keys = ()
    ) -> tuple[str, bytes]:
        """Return the next root, changed, under its name, signed by the named keys."""
        root = copy.deepcopy(self.world.repository.chain().root)
        root.version += 1
        change(root)
        keys = (*self.world.root_keys(*names), *extra)
        return f"{root.version}.root.json", signed(Metadata[Root](root), keys)

    def publish(self, name: str, data: bytes) -> None:
        """Put a file into the home, as if the fleet's key holders had."""
        (self.world.home.repository / name).write_bytes(data)

    def redelegate(self, role: str, *keys: CryptoSigner, threshold: int = 1) -> None:
        """Give a delegated role these keys, as the holder of the targets key would."""
        chain = self.world.repository.chain()
        delegations = chain.targets.delegations
        assert delegations is not None
        assert delegations.roles is not None
        for old in tuple(delegations.roles[role].keyids):
            chain.targets.revoke_key(old, role)
        for key in keys:
            chain.targets.add_key(key.public_key, role)
        delegations.roles[role].threshold = threshold
        changed = {"targets": chain.targets, role: chain.delegated[role]}
        self.world.resign(changed, keys={role: keys})

    # -- what lies on the device's disk ------------------------------------------------

    def slot(self, release: str) -> Path:
        """Return the folder of a release on the device."""
        artifact = self.world.catalog.release(release).variants["cam"].artifact
        return self.device.state / "slots" / artifact

    def spoil(self, release: str, name: str) -> None:
        """Turn one bit of a file in a slot."""
        file = self.slot(release) / name
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    def part(self, release: str, name: str) -> bytes:
        """Return a part of a release as it was signed."""
        variant = self.world.catalog.release(release).variants["cam"]
        data = self.world.catalog.read_part(variant, name)
        assert data is not None
        return data

    def nothing_wrong_on_disk(self, release: str) -> None:
        """Check that no byte of a release came to lie in a slot that was not signed."""
        folder = self.slot(release)
        if not folder.is_dir():
            return
        signed = {it.name: it for it in self._variant(release).index.parts}
        for file in folder.iterdir():
            if file.name in signed:
                data, whole = file.read_bytes(), self.part(release, file.name)
                pieces = range(0, len(data), 1024)
                right = {whole[at : at + 1024] for at in range(0, len(whole), 1024)}
                right |= {bytes(1024), bytes(len(whole) % 1024)}
                assert all(data[at : at + 1024] in right for at in pieces)

    def foreign_root(self) -> bytes:
        """Return a root that other keys signed."""
        keys = [CryptoSigner.generate_ed25519() for _ in range(3)]
        root = copy.deepcopy(self.world.repository.chain().root)
        for role in root.roles:
            for old in tuple(root.roles[role].keyids):
                root.revoke_key(old, role)
            for key in keys:
                root.add_key(key.public_key, role)
        return signed(Metadata[Root](root), keys)

    # -- what the device must say and run ----------------------------------------------

    async def refuses(self, *codes: Code, running: str = "model@1") -> StepEvent:
        """Wait for the refusal, told as an event and signed; return the event.

        The device must go on running what it ran.
        """

        def told() -> list[StepEvent]:
            new = self.device.events[self._heard :]
            return [it for it in new if it.code is not None]

        def said() -> str:
            seen = [f"{it.event} {it.code} {it.detail}" for it in self.device.events]
            return f"{codes}; it said {seen}\n{self.device.log()[-1500:]}"

        try:
            await until(told, "a refusal", timeout_s=PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(said()) from error
        event = told()[-1]
        self._heard = len(self.device.events)
        assert event.code in codes, said()
        assert event.event in {"refused", "failed"}, said()
        await self.stated(event.code)
        await self.runs(running)
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

    async def serves_nothing(self) -> None:
        """Wait until the device is back and says that no worker answers.

        Nothing that was tampered with may have answered a request in between.
        """
        boots = len(self.device.states)
        windows = len(self.device.windows)
        await until(
            lambda: len(self.device.states) > boots and self.status().get("connected"),
            "the device back",
            timeout_s=PATIENCE_S,
        )
        await until(
            lambda: "artifact_invalid" in self.device.log(),
            "the damage noticed",
            timeout_s=PATIENCE_S,
        )
        assert not self.status()["serving"]
        boot = self.device.states[-1].boot
        new = [it for it in self.device.windows[windows:] if it.boot == boot]
        assert not any(window.requests > window.errors for window in new)

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

    async def hears(self, sequence: int = 50) -> None:
        """Let the honest controller in again: it must be heard, which is cheaper."""
        self.world.serve_honestly()
        self.device.answer = self._answer
        await self.accepts(sequence)

    async def silent(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that leaves no refusal behind."""
        await until(condition, what, timeout_s=PATIENCE_S)

    def status(self) -> dict[str, object]:
        """Return what ``quarterdeck-agent status`` would show."""
        return read_status(self.device.state)

    async def stated(self, code: Code) -> Refusal:
        """Wait for the signed refusal with ``code``, and return it verified."""
        await until(
            lambda: any(it.code is code for it in self.refusals()),
            f"a signed refusal: {code}",
            timeout_s=PATIENCE_S,
        )
        refusal = next(it for it in self.refusals() if it.code is code)
        assert refusal.device == self.device.name
        assert refusal.attack is looks_like(code)
        return refusal

    def refusals(self) -> list[Refusal]:
        """Return what the device has stated; each must bear its signature."""
        name, keys = self.device.name, _keys(self.device.identity)
        return [verified(data, name, keys) for data in self.device.refusals]

    def _variant(self, release: str) -> Variant:
        return self.world.catalog.release(release).variants["cam"]

    def _answer(self, request: MetadataRequest) -> Iterable[bytes]:
        name = request.name
        told = self._keeper.read(name) if name.startswith("time/") else None
        data = told or self.world.broker.answer(name)
        return [reply.encode() for reply in replies(request.id, data)]


def _part(name: str) -> PartName:
    return "model.onnx" if name == "model.onnx" else "golden.npz"


def _keys(identity: Identity) -> dict[str, bytes]:
    leaf = load_pem_x509_certificate(identity.certificate_pem)
    key = leaf.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return {sha256(key).hexdigest(): key}


def _not_served(folder: str, names: list[str]) -> set[str]:
    """Leave out what an attack does not touch: the broker's own store and logs."""
    return {"broker", "logs"} & set(names) if Path(folder).name == "home" else set()
