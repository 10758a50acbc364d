"""Everything that reads bytes which somebody else wrote, as functions of bytes.

A target returns, or refuses with an error of the house. Anything else that it raises is
a finding, and so is a ``Finding``: it took for signed what was changed.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient.fetcher import FetcherInterface

from quarterdeck_agent.identity.certificate import read_claim, read_leaf
from quarterdeck_agent.identity.pem import take_apart
from quarterdeck_agent.outbox import Outbox
from quarterdeck_agent.runtime.frames import HEAD, lengths
from quarterdeck_agent.runtime.golden import Input, fit
from quarterdeck_agent.runtime.tensors import read_tensors
from quarterdeck_agent.settings import load_settings
from quarterdeck_agent.update import verify
from quarterdeck_agent.update.floor import Floor, FloorFile
from quarterdeck_agent.update.refresh import Refreshed, Source
from quarterdeck_controller.access.exported import read_export
from quarterdeck_controller.broker.revocations import fault
from quarterdeck_controller.fleet import refusals
from quarterdeck_controller.home import Home
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.requests import prove
from quarterdeck_controller.release.provenance import unverified
from quarterdeck_controller.repository.exported import read_exported
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.requests import Terms
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import PAYLOAD_TYPE, Assignment
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import pae, sealed
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from quarterdeck_shared.metadata import MetadataReply
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import Window
from quarterdeck_shared.transfer import ChunkFrame, from_bitmap
from quarterdeck_shared.wire import Wire
from tests.fuzz.seeds import examples, messages
from tests.support.identities import device_identity, new_key, request

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
REFUSALS = (QuarterdeckError,)


class FindingError(Exception):
    """Something was believed that must not be."""


@dataclass(frozen=True)
class Target:
    """One reader, and good inputs to begin from."""

    name: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]

    def __call__(self, data: bytes) -> bool:
        """Return whether ``data`` was accepted; raise what is a finding."""
        try:
            self.read(data)
        except REFUSALS:
            return False
        return True


def targets() -> tuple[Target, ...]:
    """Return every target."""
    kinds = [
        Target(f"{kind.__module__}.{kind.__qualname__}", _of(kind), examples(kind))
        for kind in messages()
    ]
    return (*kinds, *_binary(), *_files(), *_identities(), *_signed())


def _of(kind: type[Wire]) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        message = kind.decode(data)
        if kind.decode(message.encode(), limit=1 << 24) != message:
            raise FindingError("written and read again it is another")

    return read


# -- binary messages -----------------------------------------------------------------


def _binary() -> Iterator[Target]:
    reply = MetadataReply(7, found=True, piece=0, last=True, data=b"data")
    yield Target("reply", MetadataReply.decode, (reply.encode(),))
    yield Target("chunk frame", ChunkFrame.decode, (ChunkFrame(1, 2, b"x").encode(),))
    yield Target("window", Window.decode, (_window().encode(),))
    yield Target("bitmap", lambda data: from_bitmap(data, 1 << 16), (b"\x01\xff",))
    yield Target("worker frame", _lengths, (HEAD.pack(3, 4),))
    yield Target("topic", _topic, (b"qd/1/device/cam-1/up/state",))


def _lengths(data: bytes) -> None:
    if len(data) == HEAD.size:
        lengths(data)


def _topic(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for parsed in (topics.parse_up(text), topics.parse_enrol(text)):
        if parsed is not None and "/" in str(parsed):
            raise FindingError("a level holds a slash")


def _window() -> Window:
    sketch = Sketch()
    for latency in (1, 100, 10_000):
        sketch.add(latency)
    return Window(
        boot=1,
        sequence=1,
        artifact="ab" * 8,
        started=NOW,
        duration=timedelta(seconds=1),
        requests=3,
        latency=sketch,
    )


# -- files ---------------------------------------------------------------------------

AGENT_TOML = b"""device = "cam-1"
device_class = "cam"
state = "state"
root = "root.json"
[broker]
host = "127.0.0.1"
port = 18883
ca = "ca.pem"
[source]
kind = "directory"
path = "samples"
[telemetry]
period_s = 60
"""
SETTINGS_TOML = b"""v = 1
fleet = "fleet"
classes = ["cam"]
chunk_bytes = 65536
[broker]
kind = "nats"
host = "127.0.0.1"
port = 18883
"""


def _files() -> Iterator[Target]:
    floor = Floor(generation=1, time=NOW)
    with _folder() as folder:
        FloorFile(folder).save(floor)
        written = (folder / "floor.json").read_bytes()
    yield Target("floor", _floor, (written,))
    key = CryptoSigner.generate_ed25519().private_bytes
    yield Target("signing key", _signing_key, (key,))
    wanted = examples(Terms)
    yield Target("signing request", _signing_request, wanted)
    yield Target("outbox", _outbox, (_window().encode(),))
    yield Target("agent.toml", _agent_settings, (AGENT_TOML,))
    yield Target("settings.toml", _home_settings, (SETTINGS_TOML,))
    yield Target("tensors", _sample, tuple(_tensors()))
    yield Target("audit export", lambda data: read_export(data, "x"), (b"{}\n",))


def _floor(data: bytes) -> None:
    with _folder() as folder:
        for name in ("floor.json", "floor.copy.json"):
            (folder / name).write_bytes(data)
        FloorFile(folder).load(NOW)


def _signing_key(data: bytes) -> None:
    with _folder() as folder:
        (folder / "director.pem").write_bytes(data)
        KeyFolder(folder).signer("director")


def _signing_request(data: bytes) -> None:
    with _folder() as folder:
        (folder / "request.json").write_bytes(data)
        read_exported(folder)


def _outbox(data: bytes) -> None:
    with _folder() as folder:
        (folder / f"{1:014x}-{1:08x}.sent").write_bytes(data)
        outbox = Outbox(folder)
        outbox.restore()
        left = [path.read_bytes() for path in folder.iterdir()]
        if left != [data] * len(outbox):
            raise FindingError("a damaged window was kept")


def _agent_settings(data: bytes) -> None:
    with _folder() as folder:
        (folder / "agent.toml").write_bytes(data)
        load_settings(folder / "agent.toml")


def _home_settings(data: bytes) -> None:
    with _folder() as folder:
        (folder / "settings.toml").write_bytes(data)
        Home(folder).settings()


def _sample(data: bytes) -> None:
    wanted = Input("x", (None, 4), np.dtype(np.float32))
    fit(read_tensors(data), (wanted,))


def _tensors() -> Iterator[bytes]:
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, x=np.ones((1, 4), np.float32))
        yield out.getvalue()
    out = io.BytesIO()
    np.save(out, np.ones((1, 4), np.float32))
    yield out.getvalue()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="quarterdeck-fuzz-") as name:
        yield Path(name)


# -- identities ----------------------------------------------------------------------


def _identities() -> Iterator[Target]:
    key = new_key()
    csr = request("cam-1", key)
    yield Target("certificate request", lambda data: prove(data, "cam-1"), (csr,))
    chain = _chain()
    yield Target("certificate", read_leaf, (chain,))
    yield Target("claim", read_claim, (chain,))
    yield Target("pem", take_apart, (chain, csr))
    lists, issued_by = _revocations()
    yield Target("revocations", lambda data: fault(data, issued_by, NOW), (lists,))


def _revocations() -> tuple[bytes, bytes]:
    with _folder() as folder:
        authority = Authority.create(folder / "authority", "fuzz", SystemClock())
        server = authority.issue_server(["127.0.0.1"])
        return authority.revocation_list(()), server.certificate_pem


def _chain() -> bytes:
    with _folder() as folder:
        authority = Authority.create(folder / "authority", "fuzz", SystemClock())
        return device_identity(authority, "cam-1", "cam").pem


# -- signed --------------------------------------------------------------------------


def _signed() -> Iterator[Target]:
    repository = Repository()
    yield Target("assignment", repository.assignment, (repository.envelope,))
    yield Target("refusal", _refusal, (_refusal_envelope(),))
    yield Target("provenance", unverified, (repository.envelope,))
    for name, data in repository.files.items():
        yield Target(f"metadata {name}", repository.refresh(name), (data,))


def _refusal_envelope() -> bytes:
    payload = b'{"v":1}'
    return sealed("application/vnd.quarterdeck.refusal.v1+json", payload, {"a": b"b"})


def _refusal(data: bytes) -> None:
    refusals.verified(data, "cam-1", {})
    raise FindingError("a refusal that no key signed was believed")


class Repository:
    """A signed repository in memory, of which one file may be exchanged."""

    def __init__(self) -> None:
        self._key = CryptoSigner.generate_ed25519()
        self.files = self._made()
        self._targets = Metadata[Targets].from_bytes(self.files["1.targets.json"])
        assignment = Assignment.decode(examples(Assignment)[0])
        self._payload = assignment.encode()
        made = self._key.sign(pae(PAYLOAD_TYPE, self._payload))
        signature = {made.keyid: bytes.fromhex(made.signature)}
        self.envelope = sealed(PAYLOAD_TYPE, self._payload, signature)

    def assignment(self, data: bytes) -> None:
        """Believe an envelope only when the director signed what it holds."""
        opened = verify.opened(data)
        director = verify.Signatory("director", self._targets.signed)
        if verify.verified(opened, director).assignment.encode() != self._payload:
            raise FindingError("a changed assignment was believed")

    def refresh(self, name: str) -> Callable[[bytes], None]:
        """Return the reader of a refresh in which ``name`` is another file."""

        def read(data: bytes) -> None:
            with _folder() as cache:
                source = Source(_Files(self.files | {name: data}), cache, self._root)
                try:
                    refreshed = Refreshed(source, NOW)
                    listing = refreshed.listing("classes/cam/model-1.idx")
                    refreshed.seen()
                except (RepositoryError, DownloadError) as error:
                    raise RejectedError(Code.METADATA_INVALID, str(error)) from error
                self._check(name, data, listing)

        return read

    @property
    def _root(self) -> bytes:
        return self.files["1.root.json"]

    def _check(self, name: str, data: bytes, listing: TargetFile | None) -> None:
        if name == "1.root.json":
            return  # the anchor itself is what the device came with
        same = Metadata.from_bytes(data).signed == (
            Metadata.from_bytes(self.files[name]).signed
        )
        if not same or listing is None:
            raise FindingError(f"a changed {name} was believed")

    def _made(self) -> dict[str, bytes]:
        expires = NOW + timedelta(days=30)
        root = Root(expires=expires, consistent_snapshot=True)
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(self._key.public_key, role)
        keyid = self._key.public_key.keyid
        roles = {
            name: DelegatedRole(name, [keyid], 1, terminating=True, paths=[path])
            for name, path in (
                ("class-cam", "classes/cam/*"),
                ("director", "assignments/*"),
            )
        }
        delegations = Delegations({keyid: self._key.public_key}, roles)
        listed = Targets(expires=expires)
        path = "classes/cam/model-1.idx"
        listed.targets[path] = TargetFile.from_data(path, b"index", ["sha256"])
        snapshot = Snapshot(expires=expires)
        for name in ("class-cam", "director"):
            snapshot.meta[f"{name}.json"] = snapshot.meta["targets.json"]
        timestamp = Timestamp(expires=expires)
        timestamp.unrecognized_fields["x-issued"] = "2026-11-01T11:00:00Z"
        return {
            "1.root.json": self._sign(Metadata(root)),
            "timestamp.json": self._sign(Metadata(timestamp)),
            "1.snapshot.json": self._sign(Metadata(snapshot)),
            "1.targets.json": self._sign(
                Metadata(Targets(expires=expires, delegations=delegations))
            ),
            "1.class-cam.json": self._sign(Metadata(listed)),
        }

    def _sign(self, metadata: "Metadata[Any]") -> bytes:
        metadata.sign(self._key)
        return metadata.to_bytes()


class _Files(FetcherInterface):
    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._files.get(url.removeprefix("/"))
        if data is None or url == "/1.root.json":
            raise DownloadHTTPError(f"there is no {url}", 404)
        return iter([data])
