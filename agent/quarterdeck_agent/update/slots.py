"""Slots on disk and the record that points at them.

A slot is a folder ``slots/<artifact digest>/`` with ``index.json`` and the parts.
Sealed parts stay sealed on the disk; ``content.key`` beside them is what the assignment
carried, which only this device can use.

The record ``update.json`` is the only pointer, so a switch is one atomic write. It is
written twice, first the copy: a damaged record is read from there. Should both be
damaged, the newest slot marked as committed, whose every byte still has its digest,
serves again, and the rest waits for the controller's retained assignment.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quarterdeck_agent.durable import disk_error, write
from quarterdeck_agent.update.record import Record
from quarterdeck_agent.update.unseal import Opener
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import sync_folder
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from quarterdeck_shared.ids import ReleaseId, Sha256
from quarterdeck_shared.index import MAX_INDEX_BYTES, Index, PartName, digest
from quarterdeck_shared.reported import Slot
from quarterdeck_shared.sealing import is_sealed
from quarterdeck_shared.wire import Wire

RECORD, COPY = "update.json", "update.copy.json"
INDEX, COMMITTED, CONTENT_KEY = "index.json", "committed.json", "content.key"
_HASH_BYTES = 1 << 20


class CommitMark(Wire):
    """Lies in a slot that has passed its probation."""

    digest: Sha256
    release: ReleaseId
    sequence: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The record as it was found; ``trouble`` says what was damaged."""

    record: Record
    trouble: str | None = None


class Slots:
    """The slots and the record in one state folder.

    Only one process may use a state folder at a time; the agent's lock sees to it.
    """

    def __init__(self, state: Path, clock: Clock, opener: Opener) -> None:
        self._state = state
        self._opener = opener
        self._clock = clock
        self._slots = state / "slots"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``.
        """
        try:
            self._slots.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self._slots) from error

    def folder(self, artifact: str) -> Path:
        """Return the folder of that artifact's slot."""
        return self._slots / artifact

    def folders(self) -> tuple[Path, ...]:
        """Return the folders of all slots that are on disk."""
        try:
            return tuple(sorted(p for p in self._slots.iterdir() if p.is_dir()))
        except FileNotFoundError:
            return ()

    # -- the record ---------------------------------------------------------

    def load(self) -> Restored:
        """Return the newest sound record, or one made from the slots themselves."""
        found, troubles = [], []
        for name in (RECORD, COPY):
            try:
                data = (self._state / name).read_bytes()
                found.append(Record.decode(data))
            except FileNotFoundError:
                troubles.append(f"{name} is missing")
            except (OSError, RejectedError) as error:
                troubles.append(f"{name}: {error}")
        if found:
            trouble = "; ".join(troubles) or None
            return Restored(max(found, key=lambda record: record.step), trouble)
        if not self.folders() and all(t.endswith("is missing") for t in troubles):
            return Restored(Record())
        return Restored(self._rebuilt(), "; ".join(troubles))

    def save(self, record: Record) -> None:
        """Make ``record`` durable; the switch and the roll back are such a write.

        Raises:
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``; the old record holds.
        """
        data = record.encode()
        write(self._state / COPY, data)
        write(self._state / RECORD, data)

    def mark_committed(self, record: Record) -> None:
        """Leave a mark in the active slot, for when every record is lost."""
        active = record.active
        if active is None:
            return
        mark = CommitMark(
            digest=active.digest, release=active.release, sequence=record.sequence
        )
        path = self.folder(active.digest) / COMMITTED
        if not path.exists() or path.read_bytes() != mark.encode():
            write(path, mark.encode())

    def _rebuilt(self) -> Record:
        """Return a record of the newest committed slot that is sound.

        Its step is the time of day in seconds, which no record that counted its
        steps has reached, so that the report is not taken for a stale one.
        """
        step = int(self._clock.now().timestamp())
        marks = sorted(self._marks(), key=lambda mark: -mark.sequence)
        for mark in marks:
            with contextlib.suppress(QuarterdeckError):
                self.verify(mark.digest)
                active = Slot(digest=mark.digest, release=mark.release)
                return Record(step=step, active=active, committed=True)
        return Record(step=step)

    def _marks(self) -> Iterable[CommitMark]:
        for folder in self.folders():
            with contextlib.suppress(OSError, RejectedError):
                mark = CommitMark.decode((folder / COMMITTED).read_bytes())
                if mark.digest == folder.name:
                    yield mark

    # -- one slot -----------------------------------------------------------

    def stage(
        self, artifact: str, index: Index, content_key: bytes | None = None
    ) -> Path:
        """Make the slot's folder with its index, and return it.

        ``content_key`` is what the assignment carries to open a sealed artifact.

        Raises:
            RejectedError: ``METADATA_INVALID`` when the index is not the artifact's;
                ``SEAL_INVALID`` or ``INCOMPATIBLE`` when it is sealed and this device
                cannot open it.
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``.
        """
        data, folder = index.encode(), self.folder(artifact)
        if digest(data) != artifact:
            raise RejectedError(
                Code.METADATA_INVALID,
                f"the index is not canonical: {digest(data)[:12]}, "
                f"{artifact[:12]} is signed",
            )
        if is_sealed(index):
            self._opener.check(content_key, index)
        try:
            folder.mkdir(exist_ok=True)
            sync_folder(self._slots)
        except OSError as error:
            raise disk_error(error, folder) from error
        if not (folder / INDEX).exists():
            write(folder / INDEX, data)
        if content_key is not None:
            write(folder / CONTENT_KEY, content_key)
        return folder

    def index(self, artifact: str) -> Index:
        """Return the slot's index, whose digest is checked.

        Raises:
            RejectedError: ``ARTIFACT_INVALID`` when it is not the signed one.
        """
        try:
            data = (self.folder(artifact) / INDEX).read_bytes()
        except OSError as error:
            raise RejectedError(Code.ARTIFACT_INVALID, f"{INDEX}: {error}") from error
        if digest(data) != artifact:
            raise RejectedError(
                Code.ARTIFACT_INVALID,
                f"{INDEX} has digest {digest(data)[:12]}, {artifact[:12]} is signed",
            )
        return Index.decode(data, limit=MAX_INDEX_BYTES)

    def verify(self, artifact: str) -> Index:
        """Hash every part and return the index (check 6.12).

        Raises:
            RejectedError: ``ARTIFACT_INVALID`` naming the part that is wrong.
        """
        index = self.index(artifact)
        for part in index.parts:
            self._hashed(artifact, index, part.name).close()
        return index

    def open(self, artifact: str, index: Index, name: PartName) -> BinaryIO:
        """Return a part opened for reading, hashed through that very descriptor.

        A sealed part is opened into memory.

        Raises:
            RejectedError: ``ARTIFACT_INVALID``, and for a sealed part
                ``SEAL_INVALID`` or ``INCOMPATIBLE``.
        """
        part, file = index.part(name), self._hashed(artifact, index, name)
        if part.plain is None:
            return file
        with file:
            wrapped = self._content_key(artifact)
            key = self._opener.content_key(wrapped, index)
            return self._opener.open(file, part, key)

    def _content_key(self, artifact: str) -> bytes | None:
        try:
            return (self.folder(artifact) / CONTENT_KEY).read_bytes()
        except OSError:
            return None

    def _hashed(self, artifact: str, index: Index, name: PartName) -> BinaryIO:
        part, path = index.part(name), self.folder(artifact) / name
        try:
            file = path.open("rb", buffering=0)
            seen = _hash(file)
        except OSError as error:
            raise RejectedError(Code.ARTIFACT_INVALID, f"{name}: {error}") from error
        if seen != part.sha256:
            file.close()
            raise RejectedError(
                Code.ARTIFACT_INVALID,
                f"{name} has digest {seen[:12]}, {part.sha256[:12]} is signed",
            )
        return file

    # -- room ---------------------------------------------------------------

    def free_bytes(self) -> int:
        """Return the room that is left for us on the disk of the state folder.

        Raises:
            TransientError: ``DISK_FAILED``.
        """
        try:
            stat = os.statvfs(self._state)
        except OSError as error:
            raise disk_error(error, self._state) from error
        return stat.f_bavail * stat.f_frsize

    def present_bytes(self, artifact: str) -> int:
        """Return the bytes that the slot occupies already."""
        folder = self.folder(artifact)
        try:
            return sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        except OSError:
            return 0

    def empty(self, artifact: str) -> None:
        """Remove the parts of a slot that could not be filled; its index stays."""
        with contextlib.suppress(OSError):
            for path in self.folder(artifact).iterdir():
                if path.name not in (INDEX, CONTENT_KEY):
                    path.unlink()

    def sweep(self, record: Record) -> None:
        """Remove every slot that ``record``, which must be durable, does not name."""
        gone = [p for p in self.folders() if not record.holds(p.name)]
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)
        if gone:
            with contextlib.suppress(OSError):
                sync_folder(self._slots)


def _hash(file: BinaryIO) -> str:
    state = hashlib.sha256()
    while block := file.read(_HASH_BYTES):
        state.update(block)
    file.seek(0)
    return state.hexdigest()
