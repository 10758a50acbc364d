"""What is released: read from the signed repository, which is the only record.

A release is all targets that class roles list for one version of a model; its counter,
its time and the reason of an override are signed beside each of them. What a class
role has ceased to list is known too: it is revoked, and nothing else has its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import TargetFile

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.listings import index_file, listing_of
from quarterdeck_controller.release.revocation import Revoked, revoked_in
from quarterdeck_controller.repository.parts import PartStore
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.roles import role_class
from quarterdeck_shared.assignment import Target
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import release_id
from quarterdeck_shared.index import MAX_INDEX_BYTES, Chunk, Index, digest
from quarterdeck_shared.listing import Listing


@dataclass(frozen=True, slots=True)
class Variant:
    """One class's part of a release."""

    target: Target
    index: Index
    listing: Listing

    @property
    def override(self) -> str:
        """Why it was released though it was refused; empty when it was not."""
        return self.listing.override

    @property
    def artifact(self) -> str:
        """The digest by which devices know the artifact."""
        return self.target.sha256


@dataclass(frozen=True, slots=True)
class Release:
    """All variants of one version of a model, by device class."""

    id: str
    model: str
    version: int
    counter: int
    created: datetime
    variants: Mapping[str, Variant]
    revoked: Mapping[str, Revoked] = field(default_factory=dict)
    """By class: what was revoked of it."""

    @property
    def override(self) -> str:
        """Why refused variants were released all the same; empty when none was."""
        return next((v.override for v in self.variants.values() if v.override), "")


@dataclass(frozen=True, slots=True)
class _Artifact:
    variant: Variant
    chunks: tuple[Chunk, ...]


class Catalog:
    """Reads releases and their chunks. Notices by itself what is newly published."""

    def __init__(self, home: Home) -> None:
        self._repository = Repository(home, SystemClock())
        self._timestamp = home.repository / "timestamp.json"
        self._parts = PartStore(home.parts)
        self._seen: tuple[int, int] | None = None
        self._releases: tuple[Release, ...] = ()
        self._artifacts: dict[str, _Artifact] = {}
        self._revoked: Mapping[str, Revoked] = {}

    def releases(self) -> tuple[Release, ...]:
        """Return every release that is in force for a class, the newest first.

        Raises:
            RejectedError: ``HOME_INVALID`` when the repository is damaged.
        """
        return tuple(release for release in self.all() if release.variants)

    def all(self) -> tuple[Release, ...]:
        """Return every release that there ever was, the newest first.

        Raises:
            RejectedError: ``HOME_INVALID`` when the repository is damaged.
        """
        self._reload()
        return self._releases

    def revoked(self) -> Mapping[str, Revoked]:
        """Return everything that was revoked, by its artifact's digest."""
        self._reload()
        return self._revoked

    def release(self, release: str, /) -> Release:
        """Return one release that is in force for at least one class.

        Raises:
            RejectedError: ``NOT_FOUND`` when there is none of that id,
                ``RELEASE_REVOKED`` when it was revoked for every class.
        """
        found = self.known(release)
        if not found.variants:
            revoked = next(iter(found.revoked.values()))
            raise RejectedError(
                Code.RELEASE_REVOKED,
                f"{release} was revoked on {revoked.at:%Y-%m-%d}: {revoked.reason}",
            )
        return found

    def known(self, release: str, /) -> Release:
        """Return one release, even if it was revoked.

        Raises:
            RejectedError: ``NOT_FOUND`` when there never was one of that id.
        """
        found = next((it for it in self.all() if it.id == release), None)
        if found is None:
            known = ", ".join(it.id for it in self.releases()) or "none"
            raise RejectedError(
                Code.NOT_FOUND, f"there is no release {release}; released: {known}"
            )
        return found

    def variant(self, artifact: str) -> Variant | None:
        """Return the variant whose index has this digest, or None."""
        found = self._artifact(artifact)
        return found.variant if found else None

    def device_class(self, artifact: str) -> str | None:
        """Return the class that ``artifact`` is for, or None when it is unknown."""
        found = self._artifact(artifact)
        return found.variant.index.device_class if found else None

    def read_chunk(self, artifact: str, number: int) -> bytes | None:
        """Return the bytes of one chunk as they are on disk, or None.

        Not hashed here: every device does (PROTOCOL.md 6.11).
        """
        found = self._artifact(artifact)
        if found is None or not 0 <= number < len(found.chunks):
            return None
        chunk = found.chunks[number]
        part = found.variant.index.part(chunk.part)
        return self._parts.read(part.sha256, chunk.offset, chunk.length)

    def read_part(self, variant: Variant, name: str) -> bytes | None:
        """Return one whole part of a variant, or None when it has none by that name."""
        part = next((part for part in variant.index.parts if part.name == name), None)
        return self._parts.get(part.sha256) if part else None

    def _artifact(self, artifact: str) -> _Artifact | None:
        if artifact not in self._artifacts:
            self._reload()
        return self._artifacts.get(artifact)

    def _reload(self) -> None:
        seen = self._stamp()
        if seen == self._seen:
            return
        chain = self._repository.chain()
        listed = [self._read(file) for file in chain.listed().values()]
        roles = (chain.delegated[name] for name in chain.delegated if role_class(name))
        revoked = [record for role in roles for record in revoked_in(role)]
        self._releases = _grouped(listed, revoked)
        self._artifacts = {it.artifact: self._chunked(it) for it in listed}
        self._revoked = {record.artifact: record for record in revoked}
        self._seen = seen

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._timestamp.stat()
        except FileNotFoundError as error:
            self._repository.timestamp()  # says it when a new fleet's waits for keys
            raise RejectedError(
                Code.HOME_INVALID, f"{self._timestamp} is missing"
            ) from error
        return status.st_ino, status.st_mtime_ns

    def _chunked(self, variant: Variant) -> _Artifact:
        known = self._artifacts.get(variant.artifact)
        chunks = known.chunks if known else variant.index.chunk_list()
        return _Artifact(variant, chunks)

    def _read(self, file: TargetFile) -> Variant:
        sha256 = file.hashes["sha256"]
        known = self._artifacts.get(sha256)
        target = Target(path=file.path, length=file.length, sha256=sha256)
        index = known.variant.index if known else self._read_index(file)
        return Variant(target, index, listing_of(file))

    def _read_index(self, file: TargetFile) -> Index:
        data = self._repository.read(index_file(file))
        if data is None or digest(data) != file.hashes["sha256"]:
            raise RejectedError(
                Code.HOME_INVALID, f"the index of {file.path} is missing or damaged"
            )
        return Index.decode(data, limit=MAX_INDEX_BYTES)


def _grouped(
    listed: Sequence[Variant], revoked: Sequence[Revoked]
) -> tuple[Release, ...]:
    groups: dict[str, list[Variant]] = {record.release_id: [] for record in revoked}
    for variant in listed:
        id_ = release_id(variant.index.model, variant.index.version)
        groups.setdefault(id_, []).append(variant)
    releases = (
        _release(id_, group, [it for it in revoked if it.release_id == id_])
        for id_, group in groups.items()
    )
    return tuple(sorted(releases, key=lambda release: -release.counter))


def _release(id_: str, group: Sequence[Variant], revoked: Sequence[Revoked]) -> Release:
    model, _, version = id_.rpartition("@")
    created = [it.listing.created for it in group] or [it.at for it in revoked]
    counters = (*(it.listing.release for it in group), *(it.release for it in revoked))
    return Release(
        id=id_,
        model=model,
        version=int(version),
        counter=max(counters),
        created=created[0],
        variants={it.index.device_class: it for it in group},
        revoked={it.device_class: it for it in revoked},
    )
