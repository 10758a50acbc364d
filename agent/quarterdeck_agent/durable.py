"""Writing to the state folder, where a full or broken disk is something to wait for."""

from pathlib import Path

from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import TransientError


def write(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step that a power cut cannot halve.

    Raises:
        TransientError: ``DISK_FULL`` or ``DISK_FAILED``; ``path`` is as before.
    """
    try:
        write_durable(path, data)
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> TransientError:
    """Return what ``error`` means for whoever wanted to use ``path``."""
    return TransientError(disk_code(error), f"{path}: {error.strerror or error}")
