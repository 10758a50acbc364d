"""The conformance client proven on a small repository of our own, over HTTP."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from quarterdeck_shared.clock import SystemClock
from tests.conformance.tuf_client.__main__ import BROKER, NOW
from tests.conformance.tuf_client.broker import running

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME, CONTENT = "models/a b.onnx", b"weights" * 30_000
ROLES = ("root", "targets", "snapshot", "timestamp")


@dataclass
class Repository:
    """Serves signed files from memory and notes what is asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    version: int = 1
    signer: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)

    def publish(
        self,
        *,
        days: float = 10,
        delegations: Delegations | None = None,
        delegated: Mapping[str, Targets] | None = None,
    ) -> None:
        """Sign the next version of everything, valid for ``days``."""
        expires = SystemClock().now().replace(microsecond=0) + timedelta(days=days)
        root = Root(version=self.version, expires=expires, consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self.signer.public_key, role)
        targets = Targets(self.version, expires=expires, delegations=delegations)
        target = TargetFile.from_data(NAME, CONTENT, ["sha256"])
        targets.targets[NAME] = target
        snapshot = Snapshot(version=self.version, expires=expires)
        snapshot.meta["targets.json"].version = self.version
        for name, listed in (delegated or {}).items():
            listed.expires = expires
            snapshot.meta[f"{name}.json"] = MetaFile(listed.version)
            signed = self._sign(Metadata(listed))
            self.files[f"/m/{listed.version}.{name}.json"] = signed
        timestamp = Timestamp(version=self.version, expires=expires)
        timestamp.snapshot_meta.version = self.version
        prefix = f"/m/{self.version}."
        self.files |= {
            f"{prefix}root.json": self._sign(Metadata(root)),
            f"{prefix}targets.json": self._sign(Metadata(targets)),
            f"{prefix}snapshot.json": self._sign(Metadata(snapshot)),
            "/m/timestamp.json": self._sign(Metadata(timestamp)),
            f"/t/models/{target.hashes['sha256']}.a%20b.onnx": CONTENT,
        }
        self.version += 1

    def publish_shared(self, second: CryptoSigner) -> None:
        """Let two roles delegate to ``shared``, which only the first's key signed.

        ``shared`` lists a file for each of the two. The second delegates to
        whoever has the key of ``second``.
        """
        shared = Targets()
        for name in ("first/f", "second/f"):
            target = TargetFile.from_data(name, CONTENT, ["sha256"])
            shared.targets[name] = target
            folder = name.partition("/")[0]
            self.files[f"/t/{folder}/{target.hashes['sha256']}.f"] = CONTENT
        by_first = delegations(self.signer, shared="first/*")
        by_second = delegations(second, shared="second/*")
        self.publish(
            delegations=delegations(self.signer, first="first/*", second="second/*"),
            delegated={
                "first": Targets(delegations=by_first),
                "second": Targets(delegations=by_second),
                "shared": shared,
            },
        )

    def _sign(self, metadata: "Metadata[Any]") -> bytes:
        metadata.sign(self.signer)
        return metadata.to_bytes()


@dataclass
class Client:
    """Runs the command line with one cache, as the suite does."""

    folder: Path
    broker: Path
    url: str

    def run(self, *arguments: str, now: datetime | None = None) -> int:
        environment = {BROKER: str(self.broker), "PATH": ""}
        if now is not None:
            environment[NOW] = now.isoformat()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.conformance.tuf_client"),
                *("--metadata-dir", str(self.folder / "metadata")),
                *("--metadata-url", f"{self.url}/m/"),
                *("--target-dir", str(self.folder / "targets")),
                *("--target-base-url", f"{self.url}/t/"),
                *arguments,
            ],
            env=environment,
            cwd=Path(__file__).parents[3],
            check=False,
        )
        return done.returncode

    def version(self, role: str) -> int:
        """Return the trusted version of a role."""
        file = self.folder / "metadata" / f"{role}.json"
        version: int = Metadata.from_file(str(file)).signed.version
        return version


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    async with running(tmp_path_factory.mktemp("broker")) as folder:
        yield folder


@pytest.fixture
def repository() -> Repository:
    repository = Repository()
    repository.publish()
    return repository


@pytest.fixture
def url(repository: Repository) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            repository.asked.append(self.path)
            data = repository.files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(tmp_path: Path, broker: Path, url: str, repository: Repository) -> Client:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "targets").mkdir()
    (tmp_path / "trusted.json").write_bytes(repository.files["/m/1.root.json"])
    client = Client(tmp_path, broker, url)
    assert client.run("init", str(tmp_path / "trusted.json")) == 0
    return client


async def test_a_refresh_asks_for_each_file_once(
    client: Client, repository: Repository
) -> None:
    code = await in_thread(client, "refresh")

    assert code == 0
    assert repository.asked == [
        "/m/2.root.json",
        "/m/timestamp.json",
        "/m/1.snapshot.json",
        "/m/1.targets.json",
    ]
    assert [client.version(role) for role in ROLES] == [1, 1, 1, 1]


async def test_a_listed_file_is_brought_once_and_verified(
    client: Client, repository: Repository
) -> None:
    download = ("--target-name", NAME, "download")
    assert await in_thread(client, *download) == 0
    repository.asked.clear()

    again = await in_thread(client, *download)

    (brought,) = (client.folder / "targets").iterdir()
    assert again == 0
    assert brought.read_bytes() == CONTENT
    assert not [it for it in repository.asked if it.startswith("/t/")]


async def test_a_changed_file_is_refused(
    client: Client, repository: Repository
) -> None:
    (name,) = (it for it in repository.files if it.startswith("/t/"))
    repository.files[name] = CONTENT[:-1] + b"!"

    code = await in_thread(client, "--target-name", NAME, "download")

    assert code == 1
    assert not list((client.folder / "targets").iterdir())


async def test_a_file_that_nobody_lists_is_not_asked_for(
    client: Client, repository: Repository
) -> None:
    code = await in_thread(client, "--target-name", "models/none", "download")

    assert code == 1
    assert client.version("targets") == 1
    assert not [it for it in repository.asked if it.startswith("/t/")]


async def test_an_older_repository_is_refused(
    client: Client, repository: Repository
) -> None:
    old = dict(repository.files)
    repository.publish()
    assert await in_thread(client, "refresh") == 0
    repository.files["/m/timestamp.json"] = old["/m/timestamp.json"]

    code = await in_thread(client, "refresh")

    assert code == 1
    assert [client.version(role) for role in ROLES] == [2, 2, 2, 2]


async def test_an_expired_repository_is_refused_at_the_time_that_is_given(
    client: Client,
) -> None:
    later = datetime.now(UTC) + timedelta(days=11)

    code = await in_thread(client, "refresh", now=later)

    assert code == 1
    assert await in_thread(client, "refresh") == 0


async def test_a_role_signed_by_others_is_refused(
    client: Client, repository: Repository
) -> None:
    assert await in_thread(client, "refresh") == 0
    repository.signer = CryptoSigner.generate_ed25519()
    repository.publish()

    code = await in_thread(client, "refresh")

    assert code == 1
    assert client.version("root") == 1


@pytest.mark.parametrize(("same", "code"), [(True, 0), (False, 1)])
async def test_a_role_is_verified_anew_for_each_role_that_delegates_to_it(
    client: Client, repository: Repository, *, same: bool, code: int
) -> None:
    other = CryptoSigner.generate_ed25519()
    repository.publish_shared(repository.signer if same else other)
    both = ("--target-name", "first/f", "--target-name", "second/f")

    ended = await in_thread(client, *both, "download")

    brought = {file.name for file in (client.folder / "targets").iterdir()}
    assert ended == code
    assert brought == {"first%2Ff", *(["second%2Ff"] if same else [])}


async def test_a_server_that_is_away_is_a_failure_and_changes_nothing(
    client: Client,
) -> None:
    client.url = "http://127.0.0.1:9"

    code = await in_thread(client, "refresh")

    assert code == 1


async def in_thread(
    client: Client, *arguments: str, now: datetime | None = None
) -> int:
    """Run the client while the broker's gateway goes on answering."""
    return await asyncio.to_thread(lambda: client.run(*arguments, now=now))


def delegations(signer: CryptoSigner, **paths: str) -> Delegations:
    """Delegate to each named role, if ``signer`` signed it, what its path matches."""
    key = signer.public_key
    roles = {
        name: DelegatedRole(name, [key.keyid], 1, terminating=False, paths=[path])
        for name, path in paths.items()
    }
    return Delegations({key.keyid: key}, roles)
