"""Files that hold either the old bytes or the new, whatever happens to the power."""

import errno
import os
from pathlib import Path

from quarterdeck_shared.codes import Code

_NEW = ".new"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_code(error: OSError) -> Code:
    """Return whether ``error`` says that the disk is full, or that it failed."""
    return Code.DISK_FULL if error.errno in _FULL else Code.DISK_FAILED


def write_durable(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``, atomically, and return when it is on the disk.

    The bytes are written beside under one fixed name, so that a crash leaves at most
    one stray file, which the next write replaces. One writer at a time.

    Raises:
        OSError: The disk is full or failed; ``path`` is as it was before.
    """
    beside = path.with_name(path.name + _NEW)
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in ``folder`` are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
