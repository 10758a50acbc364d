"""An artifact on disk that may not be complete: what is there is found by hashing.

No list of what was received is kept: after a crash the bytes themselves tell. All of
it blocks, ``open`` for as long as hashing takes: call it in a thread.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from quarterdeck_agent.durable import disk_error
from quarterdeck_shared.durable import sync_folder
from quarterdeck_shared.index import Chunk, Index, PartName

_PART_NAMES: tuple[PartName, ...] = ("model.onnx", "golden.npz", "evaluation.json")


class PartialArtifact:
    """The part files of one artifact in one folder.

    Attributes:
        chunks: Where each chunk belongs.
        missing: Numbers of the chunks that are not there yet.
        reused_bytes: Bytes copied from elsewhere on the disk.
    """

    def __init__(self, index: Index, folder: Path) -> None:
        self.chunks = index.chunk_list()
        self.missing: set[int] = set()
        self.reused_bytes = 0
        self._index = index
        self._folder = folder
        self._files: dict[PartName, int] = {}

    def open(self, reuse: Sequence[Path] = ()) -> None:
        """Make the files at their full size, and find out what is missing.

        Raises:
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``; files that were made for
                this are gone again.
        """
        made: list[Path] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for part in self._index.parts:
                path = self._folder / part.name
                if not path.exists():
                    made.append(path)
                self._files[part.name] = _open_sized(path, part.length)
            self._find_missing({path.name for path in made})
            self._copy_from(reuse)
        except OSError as error:
            self.close()
            for path in made:
                path.unlink(missing_ok=True)
            raise disk_error(error, self._folder) from error
        except BaseException:
            self.close()
            raise

    def write(self, number: int, data: bytes) -> None:
        """Put a verified chunk in its place.

        Raises:
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``.
        """
        chunk = self.chunks[number]
        try:
            _write_all(self._files[chunk.part], data, chunk.offset)
        except OSError as error:
            raise disk_error(error, self._folder / chunk.part) from error
        self.missing.discard(number)

    def sync(self) -> None:
        """Return when all of it is on the disk.

        Raises:
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``.
        """
        try:
            for handle in self._files.values():
                os.fsync(handle)
            sync_folder(self._folder)
        except OSError as error:
            raise disk_error(error, self._folder) from error

    def close(self) -> None:
        """Close the files; safe to repeat."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _find_missing(self, new_files: set[str]) -> None:
        for number, chunk in enumerate(self.chunks):
            if chunk.part in new_files or not self._is_there(chunk):
                self.missing.add(number)

    def _is_there(self, chunk: Chunk) -> bool:
        data = os.pread(self._files[chunk.part], chunk.length, chunk.offset)
        return hashlib.sha256(data).hexdigest() == chunk.sha256

    def _copy_from(self, folders: Sequence[Path]) -> None:
        """Copy missing chunks from the part files of other slots."""
        if not self.missing:
            return
        wanted: dict[str, list[int]] = {}
        for number in self.missing:
            wanted.setdefault(self.chunks[number].sha256, []).append(number)
        for data in _pieces(folders, self._index.chunk_bytes):
            for number in wanted.pop(hashlib.sha256(data).hexdigest(), ()):
                self.write(number, data)
                self.reused_bytes += len(data)


def _pieces(folders: Sequence[Path], chunk_bytes: int) -> Iterator[bytes]:
    """Yield the part files in ``folders`` cut as their chunks were."""
    for folder in folders:
        for name in _PART_NAMES:
            # what cannot be read there is fetched over the network instead
            with contextlib.suppress(OSError), (folder / name).open("rb") as file:
                while data := file.read(chunk_bytes):
                    yield data


def _open_sized(path: Path, length: int) -> int:
    """Open ``path`` with all of its blocks allocated, so that it cannot run full."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, length)
        os.ftruncate(handle, length)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _write_all(handle: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(handle, rest, offset)
        rest, offset = rest[done:], offset + done
