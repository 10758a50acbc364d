"""What is released: read from the signed repository, which is the only record.

A release is all targets that class roles list for one version of a model; its counter,
its time and the reason of an override are signed beside each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from tuf.api.metadata import TargetFile

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.parts import PartStore
from quarterdeck_controller.release.repository import Repository
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
    override: str

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

    def releases(self) -> tuple[Release, ...]:
        """Return every release, the newest first.

        Raises:
            RejectedError: ``HOME_INVALID`` when the repository is damaged.
        """
        self._reload()
        return self._releases

    def release(self, release: str, /) -> Release:
        """Return one release.

        Raises:
            RejectedError: ``NOT_FOUND`` when there is none of that id.
        """
        found = next((it for it in self.releases() if it.id == release), None)
        if found is None:
            known = ", ".join(it.id for it in self._releases) or "none"
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
        files = self._repository.chain().listed().values()
        listed = [self._read(file) for file in files]
        self._releases = _grouped(listed)
        self._artifacts = {
            variant.artifact: self._artifacts.get(variant.artifact)
            or _Artifact(variant, variant.index.chunk_list())
            for _, variant in listed
        }
        self._seen = seen

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._timestamp.stat()
        except FileNotFoundError as error:
            raise RejectedError(
                Code.HOME_INVALID, f"{self._timestamp} is missing"
            ) from error
        return status.st_ino, status.st_mtime_ns

    def _read(self, file: TargetFile) -> tuple[Listing, Variant]:
        sha256 = file.hashes["sha256"]
        known = self._artifacts.get(sha256)
        listing = _listing(file)
        if known is not None:
            return listing, known.variant
        target = Target(path=file.path, length=file.length, sha256=sha256)
        folder, _, name = file.path.rpartition("/")
        data = self._repository.read(f"targets/{folder}/{sha256}.{name}")
        if data is None or digest(data) != sha256:
            raise RejectedError(
                Code.HOME_INVALID, f"the index of {file.path} is missing or damaged"
            )
        index = Index.decode(data, limit=MAX_INDEX_BYTES)
        return listing, Variant(target, index, listing.override)


def _listing(file: TargetFile) -> Listing:
    try:
        return Listing.model_validate(file.custom)
    except ValidationError as error:
        raise RejectedError(
            Code.HOME_INVALID,
            f"what is signed beside {file.path} is not valid: {error}",
        ) from error


def _grouped(listed: list[tuple[Listing, Variant]]) -> tuple[Release, ...]:
    groups: dict[str, list[tuple[Listing, Variant]]] = {}
    for listing, variant in listed:
        id_ = release_id(variant.index.model, variant.index.version)
        groups.setdefault(id_, []).append((listing, variant))
    releases = (_release(id_, group) for id_, group in groups.items())
    return tuple(sorted(releases, key=lambda release: -release.counter))


def _release(id_: str, group: list[tuple[Listing, Variant]]) -> Release:
    listing, variant = group[0]
    return Release(
        id=id_,
        model=variant.index.model,
        version=variant.index.version,
        counter=listing.release,
        created=listing.created,
        variants={v.index.device_class: v for _, v in group},
    )
