"""Parts of artifacts on the controller's disk, each once, named by its sha256."""

import os
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.ids import Sha256
from quarterdeck_shared.index import digest


@dataclass(frozen=True, slots=True)
class PartStore:
    """A folder of parts. Nothing in it is ever changed."""

    folder: Path

    def put(self, data: bytes) -> tuple[Sha256, bool]:
        """Keep ``data``; return its sha256, and whether it is new here.

        A part that was damaged on the disk is mended.
        """
        sha256 = digest(data)
        kept = self.get(sha256)
        if kept != data:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_durable(self.folder / sha256, data)
        return sha256, kept is None

    def forget(self, sha256: str) -> None:
        """Remove a part that nothing refers to."""
        (self.folder / sha256).unlink(missing_ok=True)

    def get(self, sha256: str) -> bytes | None:
        """Return the part, or None when it is not here."""
        try:
            return (self.folder / sha256).read_bytes()
        except FileNotFoundError:
            return None

    def read(self, sha256: str, offset: int, length: int) -> bytes | None:
        """Return a range of the part, or None when it is not here or too short."""
        try:
            handle = os.open(self.folder / sha256, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            data = os.pread(handle, length, offset)
        finally:
            os.close(handle)
        return data if len(data) == length else None
