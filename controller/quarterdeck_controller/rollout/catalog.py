"""The catalog port: what a rollout asks of the released artifacts.

``MemoryCatalog`` is the fake that lives beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from quarterdeck_controller.store.records import Runs
from quarterdeck_shared.assignment import Target
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Requirements
from quarterdeck_shared.errors import RejectedError


class IndexPort(Protocol):
    """What a rollout reads of an artifact's index."""

    @property
    def requires(self) -> Requirements:
        """What a device must have."""
        ...

    @property
    def length(self) -> int:
        """Total bytes of all parts."""
        ...


class VariantPort(Protocol):
    """One release for one device class."""

    @property
    def target(self) -> Target:
        """The index as TUF lists it."""
        ...

    @property
    def artifact(self) -> str:
        """The artifact's digest: that of its index."""
        ...

    @property
    def index(self) -> IndexPort:
        """The artifact's index."""
        ...


class ReleasePort(Protocol):
    """All variants of one version of a model."""

    @property
    def id(self) -> str:
        """``<model>@<version>``."""
        ...

    @property
    def variants(self) -> Mapping[str, VariantPort]:
        """The variant of each device class that has one."""
        ...


class CatalogPort(Protocol):
    """The releases there are."""

    def release(self, release: str, /) -> ReleasePort:
        """Return the release of that id.

        Raises:
            RejectedError: ``NOT_FOUND``.
        """
        ...


class RememberingCatalog:
    """A catalog that reads each release once: a release never changes."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog
        self._known: dict[str, ReleasePort] = {}

    def release(self, release: str, /) -> ReleasePort:
        """Return the release of that id.

        Raises:
            RejectedError: ``NOT_FOUND``.
        """
        if release not in self._known:
            self._known[release] = self._catalog.release(release)
        return self._known[release]


@dataclass(frozen=True, slots=True)
class PlainIndex:
    """An index of the fake."""

    requires: Requirements
    length: int = 1 << 20


@dataclass(frozen=True, slots=True)
class PlainVariant:
    """A variant of the fake."""

    target: Target
    artifact: str
    index: PlainIndex


@dataclass(frozen=True, slots=True)
class PlainRelease:
    """A release of the fake."""

    id: str
    variants: Mapping[str, PlainVariant]


@dataclass(slots=True)
class MemoryCatalog:
    """Releases in memory."""

    releases: dict[str, PlainRelease] = field(default_factory=dict)

    def release(self, release: str, /) -> PlainRelease:
        """Return the release of that id.

        Raises:
            RejectedError: ``NOT_FOUND``.
        """
        if release not in self.releases:
            raise RejectedError(Code.NOT_FOUND, f"no release {release}")
        return self.releases[release]


def runs(release: ReleasePort, device_class: str) -> Runs | None:
    """Return ``release`` as it exists for ``device_class``, or None."""
    variant = release.variants.get(device_class)
    return None if variant is None else Runs(release.id, variant.target)
