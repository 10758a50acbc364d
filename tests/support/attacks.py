"""A fleet, a device's judgement, and an attacker who holds the broker and some keys."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient.fetcher import FetcherInterface

from quarterdeck_agent.update.trust import Accepted, Trust
from quarterdeck_controller.home import Home
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.assignment import PAYLOAD_TYPE, Assignment
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest
from quarterdeck_shared.reported import Slot
from tests.support.releases import NOW, ManualClock, copied_home, write_variants

BUILT = NOW - timedelta(days=30)
COMPACT = JSONSerializer(compact=True)
PIECE = 64 * 1024

Files = dict[str, bytes | None]


class HostileBroker(FetcherInterface):
    """Serves the real repository, except where the attacker serves something else."""

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self._read = read
        self.instead: Files = {}
        self.asked: list[str] = []

    def serve(self, read: Callable[[str], bytes | None]) -> None:
        """Serve what ``read`` returns from now on."""
        self._read = read

    def answer(self, name: str) -> bytes | None:
        """Return what is served under ``name``, or None."""
        self.asked.append(name)
        return self.instead[name] if name in self.instead else self._read(name)

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix("/")
        data = self.answer(name)
        if data is None:
            raise DownloadHTTPError(f"there is no {name}", 404)
        return (data[at : at + PIECE] for at in range(0, len(data), PIECE))


class World:
    """A fleet of two classes with one release, and what an attacker can do to it."""

    def __init__(
        self,
        folder: Path,
        *,
        home: Home | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self.folder = folder
        self.clock = clock or ManualClock()
        self.home = home or copied_home(folder / "home", released=True)
        self.repository = Repository(self.home, self.clock)
        self.catalog = Catalog(self.home)
        self.broker = HostileBroker(self.repository.read)
        self.root = self.repository.newest_root()
        self.newest = 1

    def release(self, version: int) -> None:
        """Release ``model@version`` to both classes."""
        folder = self.folder / f"v{version}"
        variants = write_variants(folder, weight=version, home=self.home)
        create_release(
            self.home, variants, "model", version, self.clock, trial=trusting
        )
        self.newest = version

    def permit(self, version: int, reason: str) -> None:
        """Sign in cam's role whether ``model@version`` may follow a newer release."""
        role = self.repository.chain().delegated["class-cam"]
        path = self.catalog.release(f"model@{version}").variants["cam"].target.path
        custom = role.targets[path].unrecognized_fields["custom"]
        custom["downgrade"] = reason
        self.resign({"class-cam": role})

    def device(
        self,
        name: str = "cam-1",
        device_class: str = "cam",
        *,
        state: str | None = None,
        running: Slot | None = None,
        notice: Callable[[Code, str], None] = lambda _code, _detail: None,
    ) -> Trust:
        """Return the judgement of a device; the same ``state`` is the same memory."""
        return Trust(
            self.state(state or name),
            device=name,
            device_class=device_class,
            root=self.root,
            fetcher=self.broker,
            clock=self.clock,
            built=BUILT,
            running=lambda: running,
            notice=notice,
        )

    def state(self, name: str = "cam-1") -> Path:
        """Return the folder in which a device remembers."""
        return self.folder / "devices" / name

    def assignment(
        self, sequence: int = 1, *, version: int = 1, **changes: object
    ) -> Assignment:
        """Return a good assignment for cam-1, with ``changes``."""
        release = self.catalog.release(f"model@{version}")
        fields = {
            "device": "cam-1",
            "device_class": "cam",
            "sequence": sequence,
            "issued": self.clock.now(),
            "expires": self.clock.now() + timedelta(days=14),
            "release": release.id,
            "target": release.variants["cam"].target,
        }
        return Assignment.model_validate(fields | changes)

    def assign(
        self, sequence: int = 1, *, version: int = 1, **changes: object
    ) -> bytes:
        """Return that assignment as the director signs it."""
        assignment = self.assignment(sequence, version=version, **changes)
        return Director(self.home).sign(assignment)

    def key(self, name: str) -> CryptoSigner:
        """Return a key of the fleet: stolen."""
        signer = KeyFolder(self.home.keys).signer(name)
        assert isinstance(signer, CryptoSigner)
        return signer

    def root_keys(self, *names: str) -> tuple[CryptoSigner, ...]:
        """Return the root keys of these names."""
        folder = KeyFolder(self.home.keys)
        return tuple(_only(folder, name) for name in names)

    def now_served(self) -> dict[str, bytes]:
        """Return every file as it is served now, to be served again later."""
        folder = self.home.repository
        return {
            str(file.relative_to(folder)): file.read_bytes()
            for file in folder.rglob("*")
            if file.suffix in {".json", ".idx"}
        }

    def serve_only(self, files: Mapping[str, bytes]) -> None:
        """Serve ``files`` and nothing else from now on."""
        self.broker.serve(files.get)
        self.broker.instead = {}

    def serve_honestly(self) -> None:
        """Serve the real repository again."""
        self.broker.serve(self.repository.read)
        self.broker.instead = {}

    def forge(
        self,
        name: str,
        change: Callable[[Signed], None],
        *keys: CryptoSigner,
    ) -> bytes:
        """Return the file ``name``, changed, and signed with ``keys``."""
        data = self.repository.read(name)
        assert data is not None
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        change(metadata.signed)
        return signed(metadata, keys)

    def forge_online(
        self, change: Callable[[Signed], None], *, version: int | None = None
    ) -> None:
        """Serve a snapshot that was changed and signed with the stolen online keys."""
        chain = self.repository.chain()
        version = version or chain.snapshot.version + 1

        def raise_version(snapshot: Signed) -> None:
            change(snapshot)
            snapshot.version = version

        old = f"{chain.snapshot.version}.snapshot.json"
        snapshot = self.forge(old, raise_version, self.key("snapshot"))
        self.broker.instead[f"{version}.snapshot.json"] = snapshot
        self.forge_timestamp(snapshot, version)

    def forge_timestamp(self, snapshot: bytes, version: int) -> None:
        """Serve a timestamp that names ``snapshot``, signed with the stolen key."""
        meta = MetaFile(version, len(snapshot), {"sha256": digest(snapshot)})

        def point(timestamp: Signed) -> None:
            assert isinstance(timestamp, Timestamp)
            timestamp.snapshot_meta = meta
            timestamp.version = max(timestamp.version + 1, version)

        forged = self.forge("timestamp.json", point, self.key("timestamp"))
        self.broker.instead["timestamp.json"] = forged

    def rotate(self, *roles: str) -> None:
        """Give ``roles`` of the root new keys, as the root's holders would."""
        folder = self.home.repository
        newest = max(
            int(file.name.partition(".")[0]) for file in folder.glob("*.root.json")
        )
        data = (folder / f"{newest}.root.json").read_bytes()
        root = Metadata[Root].from_bytes(data).signed
        for role in roles:
            (self.home.keys / f"{role}.pem").unlink()
            old = root.roles[role].keyids[0]
            root.add_key(KeyFolder(self.home.keys).create(role), role)
            root.revoke_key(old, role)
        root.version += 1
        data = signed(Metadata[Root](root), self.root_keys("root-1", "root-2"))
        (folder / f"{root.version}.root.json").write_bytes(data)

    def replace(self, role: str) -> None:
        """Give a delegated ``role`` a new key, as the holder of targets' key would."""
        chain = self.repository.chain()
        old = chain.quorum(role).keys
        KeyFolder(self.home.keys).file(role).unlink()
        for keyid in old:
            chain.targets.revoke_key(keyid, role)
        chain.targets.add_key(KeyFolder(self.home.keys).create(role), role)
        self.resign({"targets": chain.targets, role: chain.delegated[role]})

    def resign(
        self,
        changed: Mapping[str, Targets] | None = None,
        *,
        version: int | None = None,
        keys: Mapping[str, Sequence[CryptoSigner]] = MappingProxyType({}),
    ) -> None:
        """Sign ``changed``, snapshot and timestamp again.

        ``keys`` are those of roles whose keys are not in the home.
        """
        folder = self.home.repository
        data = (folder / "timestamp.json").read_bytes()
        timestamp = Metadata[Timestamp].from_bytes(data)
        current = timestamp.signed.snapshot_meta.version
        data = (folder / f"{current}.snapshot.json").read_bytes()
        snapshot = Metadata[Snapshot].from_bytes(data)
        for role, listing in (changed or {}).items():
            listing.version += 1
            signers = keys.get(role) or [self.key(role)]
            data = signed(Metadata[Targets](listing), signers)
            (folder / f"{listing.version}.{role}.json").write_bytes(data)
            meta = MetaFile(listing.version, len(data), {"sha256": digest(data)})
            snapshot.signed.meta[f"{role}.json"] = meta
        snapshot.signed.version = version or current + 1
        data = signed(snapshot, [self.key("snapshot")])
        (folder / f"{snapshot.signed.version}.snapshot.json").write_bytes(data)
        meta = MetaFile(snapshot.signed.version, len(data), {"sha256": digest(data)})
        timestamp.signed.snapshot_meta = meta
        timestamp.signed.version = version or timestamp.signed.version + 1
        data = signed(timestamp, [self.key("timestamp")])
        (folder / "timestamp.json").write_bytes(data)


def signed(metadata: Metadata[Any], keys: Sequence[CryptoSigner]) -> bytes:
    """Return ``metadata`` signed by ``keys`` and nobody else."""
    metadata.signatures.clear()
    for key in keys:
        metadata.sign(key, append=True)
    return metadata.to_bytes(COMPACT)


def sealed(payload: bytes, *keys: CryptoSigner, kind: str = PAYLOAD_TYPE) -> bytes:
    """Return a DSSE envelope around ``payload``."""
    envelope = Envelope(payload, kind, {})
    for key in keys:
        envelope.sign(key)
    return json.dumps(envelope.to_dict()).encode()


def _only(folder: KeyFolder, name: str) -> CryptoSigner:
    signer = folder.signer(name)
    assert isinstance(signer, CryptoSigner)
    return signer


def refusal(trust: Trust, envelope: bytes) -> Code:
    """Return the code with which ``envelope`` is refused."""
    with pytest.raises(RejectedError) as caught:
        trust.accept(envelope)
    return caught.value.code


def heals(world: World, sequence: int = 50) -> bool:
    """Return whether the device accepts an honest assignment again."""
    world.serve_honestly()
    envelope = world.assign(sequence, version=world.newest)
    return isinstance(world.device().accept(envelope), Accepted)
