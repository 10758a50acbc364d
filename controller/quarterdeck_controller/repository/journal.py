"""A folder of which several files change at once, or none of them.

New files are written beside, each durably, into a folder that is then renamed: that is
the moment of the change. From then on they are read before those they replace, and
moved to their place one by one; a crash in the middle is made good by ``settle``.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from quarterdeck_shared.durable import sync_folder, write_durable

Write = Callable[[Path, bytes], None]


class Journal:
    """Reads and changes the files of ``folder``. One writer at a time.

    Args:
        last: The file that is moved last: what leads readers to all others.
        write: How a file is written; tests interrupt it.
    """

    def __init__(
        self, folder: Path, *, last: str, write: Write = write_durable
    ) -> None:
        self._folder = folder
        self._last = last
        self._write = write

    def read(self, name: str) -> bytes | None:
        """Return the file as the last complete change left it, or None."""
        for folder in (self._due, self._folder):
            try:
                return (folder / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None

    def stamp(self) -> tuple[int, ...]:
        """Return what differs after every change; cheaper than reading a file."""
        stamps: tuple[int, ...] = ()
        for place in (self._due, self._folder / self._last):
            with contextlib.suppress(FileNotFoundError):
                status = place.stat()
                stamps += (status.st_ino, status.st_mtime_ns)
        return stamps

    def names(self) -> frozenset[str]:
        """Return the names of all files."""
        return frozenset(
            file.name
            for folder in (self._due, self._folder)
            if folder.is_dir()
            for file in folder.iterdir()
            if file.is_file()
        )

    def commit(self, files: Mapping[str, bytes]) -> None:
        """Replace all of ``files``, and return when they are on the disk.

        Raises:
            OSError: The disk is full or failed; everything is as it was before.
        """
        self.settle()
        shutil.rmtree(self._staged, ignore_errors=True)
        self._staged.mkdir()
        for name, data in files.items():
            self._write(self._staged / name, data)
        self._staged.rename(self._due)
        sync_folder(self._folder)
        self.settle()

    def remove(self, name: str) -> None:
        """Remove a file that nothing leads to; a crash may bring it back.

        Raises:
            OSError: It cannot be removed.
        """
        (self._folder / name).unlink(missing_ok=True)

    def settle(self) -> None:
        """Finish a change that was interrupted after its moment."""
        if not self._due.is_dir():
            return
        waiting = sorted(
            self._due.iterdir(), key=lambda file: (file.name == self._last, file.name)
        )
        for file in waiting:
            file.replace(self._folder / file.name)
        sync_folder(self._folder)
        self._due.rmdir()

    @property
    def _staged(self) -> Path:
        return self._folder / ".staged"

    @property
    def _due(self) -> Path:
        return self._folder / ".due"
