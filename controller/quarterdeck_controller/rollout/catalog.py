"""The catalog port: what a rollout asks of the released artifacts.

``MemoryCatalog`` is the fake that lives beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
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


class RevokedPort(Protocol):
    """An artifact that no device installs any more."""

    @property
    def release_id(self) -> str:
        """The release that it belonged to."""
        ...

    @property
    def device_class(self) -> str:
        """The class that it was for."""
        ...

    @property
    def reason(self) -> str:
        """Why it was revoked."""
        ...

    @property
    def at(self) -> datetime:
        """When."""
        ...


class CatalogPort(Protocol):
    """The releases there are. What they are may change: ask anew in every round."""

    def release(self, release: str, /) -> ReleasePort:
        """Return the release of that id, with the variants that are in force.

        Raises:
            RejectedError: ``NOT_FOUND``; ``RELEASE_REVOKED`` when none is in force.
        """
        ...

    def revoked(self) -> Mapping[str, RevokedPort]:
        """Return everything that was revoked, by its artifact's digest."""
        ...


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


@dataclass(frozen=True, slots=True)
class PlainRevoked:
    """A revocation of the fake."""

    release_id: str
    device_class: str
    reason: str
    at: datetime


@dataclass(slots=True)
class MemoryCatalog:
    """Releases in memory."""

    releases: dict[str, PlainRelease] = field(default_factory=dict)
    gone: dict[str, PlainRevoked] = field(default_factory=dict)

    def release(self, release: str, /) -> PlainRelease:
        """Return the release of that id.

        Raises:
            RejectedError: ``NOT_FOUND``.
        """
        if release not in self.releases:
            raise RejectedError(Code.NOT_FOUND, f"no release {release}")
        return self.releases[release]

    def revoked(self) -> Mapping[str, PlainRevoked]:
        """Return what was revoked."""
        return self.gone

    def revoke(self, release: str, reason: str, at: datetime, *classes: str) -> None:
        """Take variants of a release out of force, all where no class is named."""
        known = self.releases[release]
        left = dict(known.variants)
        for name in classes or tuple(left):
            variant = left.pop(name)
            self.gone[variant.artifact] = PlainRevoked(release, name, reason, at)
        self.releases[release] = PlainRelease(release, left)


def runs(release: ReleasePort, device_class: str) -> Runs | None:
    """Return ``release`` as it exists for ``device_class``, or None."""
    variant = release.variants.get(device_class)
    return None if variant is None else Runs(release.id, variant.target)
