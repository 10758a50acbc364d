"""Writing to the state folder, where a full or broken disk is something to wait for."""

import errno
from pathlib import Path

from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import TransientError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    code = Code.DISK_FULL if error.errno in _FULL else Code.DISK_FAILED
    return TransientError(code, f"{path}: {error.strerror or error}")
