"""What this device has accepted, below which it never goes again.

Metadata caches may be lost in a power cut and clocks may be set back; this file may
not. It is written twice, each time durably, and each copy carries its own digest: one
damaged copy is mended from the other. When no copy can be read the device refuses,
because an empty floor would accept the oldest repository that is still unexpired. A
device on which neither file exists is a new one, unless something else shows that it is
not: the floor is the first that a new device writes.
"""

import errno
import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import ModelName, Sha256
from quarterdeck_shared.wire import Wire

_log = logging.getLogger(__name__)

MAX_ROLES, MAX_VERSION = 8192, 1 << 53
"""Roles whose versions are remembered, and the highest that can be."""

MAX_MODELS = 1024
"""Models of which a device remembers what it has accepted."""

MAX_KEYS = 64
"""Keys that a role may have."""

_BROKEN = frozenset({errno.EIO, errno.EISDIR})
"""A copy that will never be read again; any other failure to read may pass."""

_MAX_BYTES = 1 << 20
_DIGEST_BYTES = 64


class Floor(Wire):
    """The floor itself. Version 1, which knew no ``releases``, is still read.

    Attributes:
        generation: Counts the writes, so that the newer of two copies is known.
        time: The latest time that was signed for; nothing unsigned raises it.
        root: Version of the root role.
        online_keys: Digest of the keys of timestamp and snapshot. When a newer root
            replaces them, ``versions`` begin anew: that is how a fleet recovers from
            a thief who signed absurdly high versions.
        versions: Version of every other role, by its name.
        sequence: Of the newest accepted assignment.
        payload_sha256: Of that assignment's payload.
        releases: The highest release counter that was accepted, by model.
        director_keys: Ids of the director's keys when ``sequence`` was accepted. When
            none of them counts any more, sequences begin anew: that is how a fleet
            recovers from a thief who signed absurdly high ones.
    """

    v: Literal[1, 2] = 2
    generation: int = Field(ge=0)
    time: AwareDatetime
    root: int = Field(default=0, ge=0)
    online_keys: str = Field(default="", max_length=64)
    versions: dict[str, int] = Field(default_factory=dict, max_length=MAX_ROLES)
    sequence: int = Field(default=0, ge=0)
    payload_sha256: str = Field(default="", max_length=64)
    releases: dict[ModelName, int] = Field(default_factory=dict, max_length=MAX_MODELS)
    director_keys: tuple[Sha256, ...] = Field(default=(), max_length=MAX_KEYS)


@dataclass(frozen=True, slots=True)
class FloorFile:
    """The two copies of the floor in a folder."""

    folder: Path

    def load(self, built: datetime, *, lived: bool = False) -> Floor:
        """Return the floor; on a new device, one that knows only when it was built.

        Args:
            built: When this software was built.
            lived: Whether the device has accepted something before.

        Raises:
            RejectedError: ``FLOOR_DAMAGED`` when it is there and cannot be read, or is
                not there though the device has ``lived``.
            OSError: The disk failed.
        """
        copies = [_read(path) for path in self._paths]
        good = [copy for copy in copies if isinstance(copy, Floor)]
        if good:
            return self._newest(good)
        damage = [copy for copy in copies if isinstance(copy, RejectedError)]
        if damage:
            raise RejectedError(
                Code.FLOOR_DAMAGED,
                f"{self.folder}: {'; '.join(error.detail for error in damage)}",
            )
        if lived:
            raise RejectedError(
                Code.FLOOR_DAMAGED, f"{self.folder}: both copies are gone"
            )
        return Floor(generation=0, time=built)

    def save(self, floor: Floor) -> Floor:
        """Make ``floor`` durable and return it as written.

        Raises:
            OSError: The disk is full or failed; the floor is as it was before, or as
                it was to be.
        """
        following = {"v": 2, "generation": floor.generation + 1}
        written = floor.model_copy(update=following)
        self._write(written)
        return written

    @property
    def _paths(self) -> tuple[Path, Path]:
        return self.folder / "floor.json", self.folder / "floor.copy.json"

    def _newest(self, good: list[Floor]) -> Floor:
        newest = max(good, key=lambda floor: floor.generation)
        if good != [newest, newest]:
            _log.warning("a copy of the floor was behind or damaged: mended")
            self._write(newest)
        return newest

    def _write(self, floor: Floor) -> None:
        body = floor.encode()
        data = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self._paths:
            write_durable(path, data)


def _read(path: Path) -> Floor | RejectedError | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _BROKEN:
            raise
        return RejectedError(Code.FLOOR_DAMAGED, f"{path.name}: {error.strerror}")
    stated, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES + 1 :]
    if hashlib.sha256(body).hexdigest().encode() != stated:
        return RejectedError(Code.FLOOR_DAMAGED, f"{path.name} has another digest")
    try:
        return Floor.decode(body, limit=_MAX_BYTES)
    except RejectedError as error:
        return error
