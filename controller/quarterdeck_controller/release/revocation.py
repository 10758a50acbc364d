"""Releases that were revoked: what a class role lists no more, and why.

No device installs what its class role does not list. That it was listed once, and why
it is no more, is signed in the same metadata, in a field of our own that devices pass
over: so that nobody can revoke in secret, or release the same name again.
"""

import re
from collections.abc import Mapping
from typing import Self

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError
from tuf.api.metadata import TargetFile, Targets

from quarterdeck_shared.assignment import Target
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import release_id
from quarterdeck_shared.wire import Wire

REVOKED_FIELD = "x-revoked"
MAX_REASON = 300
_PATH = re.compile(r"classes/(?P<cls>[^/]+)/(?P<model>.+)-(?P<version>[0-9]{1,9})\.idx")


class Revoked(Wire):
    """A target that a class role has ceased to list.

    Attributes:
        release: Its release counter.
        at: When it was decided.
    """

    target: Target
    release: int = Field(ge=1, le=1 << 40)
    reason: str = Field(min_length=1, max_length=MAX_REASON)
    at: AwareDatetime

    @classmethod
    def of(cls, file: TargetFile, release: int, reason: str, at: AwareDatetime) -> Self:
        """Return the record of revoking ``file``."""
        sha256 = file.hashes["sha256"]
        target = Target(path=file.path, length=file.length, sha256=sha256)
        return cls(target=target, release=release, reason=reason, at=at)

    @property
    def artifact(self) -> str:
        """The digest by which devices know it."""
        return self.target.sha256

    @property
    def device_class(self) -> str:
        """The class that it was for."""
        return self._named()["cls"]

    @property
    def model(self) -> str:
        """The model that it was a release of."""
        return self._named()["model"]

    @property
    def version(self) -> int:
        """The version of that model."""
        return int(self._named()["version"])

    @property
    def release_id(self) -> str:
        """The release that it belonged to."""
        return release_id(self.model, self.version)

    def _named(self) -> Mapping[str, str]:
        found = _PATH.fullmatch(self.target.path)
        if found is None:
            raise RejectedError(
                Code.HOME_INVALID, f"{self.target.path} names no release"
            )
        return found.groupdict()


_RECORDS = TypeAdapter(tuple[Revoked, ...])


def revoked_in(signed: Targets) -> tuple[Revoked, ...]:
    """Return what a class role says that it has revoked.

    Raises:
        RejectedError: ``HOME_INVALID`` when that is not valid.
    """
    records = signed.unrecognized_fields.get(REVOKED_FIELD, [])
    try:
        return _RECORDS.validate_python(records)
    except ValidationError as error:
        raise RejectedError(
            Code.HOME_INVALID,
            f"what a class role says was revoked is not valid: {error}",
        ) from error


def revoke_in(signed: Targets, path: str, revoked: Revoked) -> None:
    """Take a target out of ``signed``, which is about to be signed, and record it."""
    del signed.targets[path]
    records = (*revoked_in(signed), revoked)
    signed.unrecognized_fields[REVOKED_FIELD] = [
        record.model_dump(mode="json") for record in records
    ]
