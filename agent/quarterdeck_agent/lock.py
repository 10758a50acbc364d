"""One agent at a time on one state folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

_LOCK = "agent.lock"


@contextlib.contextmanager
def exclusive(state: Path) -> Iterator[None]:
    """Hold ``state`` for this process; the kernel lets go of it when it ends.

    Raises:
        RejectedError: ``DUPLICATE_IDENTITY`` naming the process that holds it, or
            ``SETTINGS_INVALID`` when the folder cannot be used.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        handle = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        detail = f"the state folder {state} cannot be used: {error.strerror}"
        raise RejectedError(Code.SETTINGS_INVALID, detail) from error
    try:
        _lock(handle, state)
        # On a full disk nobody can be told who holds it, which is no reason to stop.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, state: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "?"
        detail = f"process {pid} runs an agent on {state}"
        raise RejectedError(Code.DUPLICATE_IDENTITY, detail) from error


def holder(state: Path) -> int | None:
    """Return the process id of the agent that runs on ``state``, if one does."""
    try:
        with (state / _LOCK).open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0)
    except (OSError, ValueError):
        return None
    return None
