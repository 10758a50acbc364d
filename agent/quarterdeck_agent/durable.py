"""Files that survive a crash: written whole and fsynced, or not at all."""

import errno
import os
from pathlib import Path

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step that a power cut cannot halve.

    Raises:
        TransientError: ``DISK_FULL`` or ``DISK_FAILED``; ``path`` is as before.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _forget(beside)
        raise disk_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """Make names that were made or removed in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error(error: OSError, path: Path) -> TransientError:
    """Return what ``error`` means for whoever wanted to use ``path``."""
    code = Code.DISK_FULL if error.errno in _FULL else Code.DISK_FAILED
    return TransientError(code, f"{path}: {error.strerror or error}")


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
