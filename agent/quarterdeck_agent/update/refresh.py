"""Signed metadata, brought up to date by python-tuf and read only through here."""

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import (
    DownloadError,
    DownloadLengthMismatchError,
    RepositoryError,
)
from tuf.api.metadata import TargetFile, Targets
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from quarterdeck_agent.update.verify import Seen, Signatory
from quarterdeck_shared.errors import TransientError
from quarterdeck_shared.signed_time import MAX_TIME_BYTES, time_name

CONFIG = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=4,
    root_max_length=64 << 10,
    timestamp_max_length=4 << 10,
    snapshot_max_length=256 << 10,
    targets_max_length=1 << 20,
)
"""Bounds on what the broker may make a device read, far below the library's own."""

_ISSUED_FIELD = "x-issued"
_ISSUED_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Source:
    """Where metadata comes from, where it is cached, and what it is anchored in.

    Attributes:
        root: The signed root that a device is anchored in. None takes the cached one
            for it, which no device may do: it is for tools that hold no root of
            their own.
        config: Bounds on what may be read.
        metadata_url: What the fetcher finds before the name of metadata.
        targets_url: What it finds before the name of a target.
    """

    fetcher: FetcherInterface
    cache: Path
    root: bytes | None
    config: UpdaterConfig = field(default_factory=lambda: CONFIG)
    metadata_url: str = "/"
    targets_url: str = "/targets/"


class Refreshed:
    """Metadata that was verified at the reference time ``now``.

    Raises:
        RepositoryError: It could not be verified.
        DownloadError: It could not be brought.
        OSError: The cache could not be written.
    """

    def __init__(self, source: Source, now: datetime) -> None:
        source.cache.mkdir(parents=True, exist_ok=True)
        for left_over in source.cache.glob("tmp*"):
            left_over.unlink()  # of a write that a power cut interrupted
        self._updater = Updater(
            str(source.cache),
            metadata_base_url=source.metadata_url,
            target_base_url=source.targets_url,
            fetcher=source.fetcher,
            config=source.config,
            bootstrap=source.root,
        )
        self._fetcher = source.fetcher
        self._url = source.metadata_url
        # The library has no public parameter for the reference time.
        self._trusted.reference_time = now
        self._updater.refresh()

    def seen(self) -> Seen:
        """Return what is in force.

        Raises:
            RepositoryError: The signed time makes no sense.
        """
        trusted = self._trusted
        listed = trusted.snapshot.meta.items()
        versions = {name.removesuffix(".json"): meta.version for name, meta in listed}
        versions["timestamp"] = trusted.timestamp.version
        versions["snapshot"] = trusted.snapshot.version
        top = (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets)
        expires = {role.type: role.expires for role in top}
        seen = Seen(trusted.root.version, self._online_keys(), versions, None, expires)
        return replace(seen, issued=self._issued(seen.latest))

    def judge_at(self, now: datetime) -> None:
        """Judge at ``now`` what is brought from here on."""
        self._trusted.reference_time = now

    def signatory(self, role: str) -> Signatory | None:
        """Return the delegated ``role`` if the fleet has it."""
        targets = self._trusted.targets
        delegated = targets.delegations and targets.delegations.roles
        return Signatory(role, targets) if role in (delegated or {}) else None

    def ask_time(self, nonce: str) -> bytes | None:
        """Return the answer of whoever tells the time, or None when nobody does.

        Raises:
            DownloadLengthMismatchError: The answer was longer than any may be.
        """
        url = self._url + time_name(nonce)
        try:
            return self._fetcher.download_bytes(url, MAX_TIME_BYTES)
        except DownloadLengthMismatchError:
            raise
        except (DownloadError, TransientError):
            return None

    def models(self) -> frozenset[str]:
        """Return the models of which the roles that ``listing`` loaded list any."""
        # The library's mapping iterates over its values.
        roles = (role for role in iter(self._trusted) if isinstance(role, Targets))
        paths = (path for role in roles for path in role.targets)
        return frozenset(Path(path).stem.rpartition("-")[0] for path in paths)

    def listing(self, path: str) -> TargetFile | None:
        """Return what the role responsible for ``path`` lists there."""
        return self._updater.get_targetinfo(path)

    def bring(self, listing: TargetFile, file: Path) -> bytes:
        """Return the listed bytes, from ``file`` when they are there already."""
        file.parent.mkdir(parents=True, exist_ok=True)
        if self._updater.find_cached_target(listing, str(file)) is None:
            self._updater.download_target(listing, str(file))
        data = file.read_bytes()
        listing.verify_length_and_hashes(data)
        return data

    @property
    def _trusted(self) -> TrustedMetadataSet:
        return self._updater._trusted_set  # noqa: SLF001 - see __init__

    def _online_keys(self) -> str:
        roles = self._trusted.root.roles
        names = ("timestamp", "snapshot")
        keys = [f"{name}:{key}" for name in names for key in sorted(roles[name].keyids)]
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()

    def _issued(self, latest: datetime) -> datetime | None:
        stated = self._trusted.timestamp.unrecognized_fields.get(_ISSUED_FIELD)
        if stated is None:
            return None
        try:
            issued = datetime.strptime(str(stated), _ISSUED_FORMAT).replace(tzinfo=UTC)
        except ValueError as error:
            raise RepositoryError(f"{_ISSUED_FIELD} is {stated!r:.40}") from error
        # Whoever stole only the timestamp's key must not be able to move a device
        # past the expiry of what others signed.
        if issued >= latest:
            raise RepositoryError(f"signed at {issued}, after the expiry {latest}")
        return issued
