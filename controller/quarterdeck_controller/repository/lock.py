"""One process at a time changes the repository."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError

_PAUSE_S = 0.05


@contextmanager
def exclusive(file: Path, *, wait_s: float) -> Iterator[None]:
    """Hold ``file`` locked; the system lets go of it when the process dies.

    Raises:
        TransientError: ``CONFLICT`` when another holds it for longer than ``wait_s``.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for _ in range(max(1, round(wait_s / _PAUSE_S))):
            if _try_lock(handle):
                yield
                return
            time.sleep(_PAUSE_S)
    finally:
        os.close(handle)
    raise TransientError(
        Code.CONFLICT,
        f"another process has been changing {file.parent} for more than {wait_s:g} s",
    )


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
