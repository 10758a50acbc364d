"""A broker as a child process: started, watched, reloaded, stopped.

The process is written down in a file, so that one that outlived a killed controller
is found again; it is only ever ended after its command line proved that it is ours.
"""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_shared.bus.link import open_wire
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import QuarterdeckError, RejectedError

START_TIMEOUT_S = 10.0
"""A broker on a loaded small board is up within three seconds."""

RELOAD_TIMEOUT_S = 60.0
"""A broker on a loaded small board reads ten thousand devices in half of this."""

STOP_TIMEOUT_S = 5.0
"""Past this a broker that was asked to end is killed."""

_LOOK_S = 2.0
_FULL_BYTES, _ROOM_BYTES = 1 << 14, 1 << 20
"""Started again on a full disk, a broker would only get stuck again."""

_PROBE_S, _RELOAD_LOOK_S, _ASK_AGAIN_S = 0.05, 0.01, 10.0
_LOG_LINES = 8
_LOG_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Command:
    """How to run a broker.

    Attributes:
        folder: Where its files are, absolute.
        arguments: The program and its arguments; one of them names a file in
            ``folder``, which is how the process is recognized.
        log: The file that it logs to.
        reloads: What it logs when it reads its configuration again.
        refuses: What it logs instead when it goes on with the old one; None for a
            broker that never says so.
        stuck: What it logs when it could not write and will not try again, although
            it runs on; None for a broker that recovers by itself.
    """

    folder: Path
    arguments: tuple[str, ...]
    log: Path
    reloads: re.Pattern[bytes]
    refuses: re.Pattern[bytes] | None = None
    stuck: bytes | None = None

    @property
    def pid_file(self) -> Path:
        """Where the process is written down."""
        return self.folder / "broker.pid"

    @property
    def output(self) -> Path:
        """What it printed: complaints from before it opened its log."""
        return self.folder / "broker.out"


class BrokerProcess:
    """At most one running process of one ``Command``."""

    def __init__(self, command: Command, endpoint: Endpoint, clock: Clock) -> None:
        self._command = command
        self._endpoint = endpoint
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._was_full = False
        self._changing = asyncio.Lock()

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and return once it accepts TLS connections."""
        async with self._changing:
            await self._start()

    async def restart(self) -> None:
        """End it and start it again, which ``ended`` does not take for an end."""
        async with self._changing:
            await self.stop()
            await self._start()

    async def _start(self) -> None:
        await stop_leftover(self._command)
        _check_port(self._endpoint)
        self._command.log.unlink(missing_ok=True)
        self._process = await self._spawn()
        write_durable(self._command.pid_file, f"{self._process.pid}\n".encode())
        try:
            await self._ready(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End it: ask first, then kill."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            await _end(process)
        self._command.pid_file.unlink(missing_ok=True)

    async def reload(self) -> None:
        """Have it read its configuration again, and return once it has.

        One that does not run reads it when it is started.

        Raises:
            RejectedError: ``BROKER_FAILED``, it goes on with the old configuration.
        """
        process, log = self._process, self._command.log
        if process is None or process.returncode is not None:
            return
        since = log.stat().st_size if log.exists() else 0
        asked_at = self._clock.monotonic()
        deadline, ask_at = asked_at + RELOAD_TIMEOUT_S, asked_at
        while process.returncode is None:
            if self._clock.monotonic() >= ask_at:
                process.send_signal(signal.SIGHUP)
                ask_at += _ASK_AGAIN_S  # somebody else's signal may have hidden ours
            if self._has_reloaded(_written_since(log, since)):
                # One that says so beforehand answers again when it is done; until
                # then it would take no note of another signal.
                await self._refusal()
                return
            if self._clock.monotonic() > deadline:
                what = f"did not say in {RELOAD_TIMEOUT_S:g} s that it was read again"
                raise self._failure(what)
            await asyncio.sleep(_RELOAD_LOOK_S)

    def _has_reloaded(self, said: bytes) -> bool:
        refuses = self._command.refuses
        if refuses is not None and refuses.search(said):
            raise self._failure("refused its new configuration")
        return self._command.reloads.search(said) is not None

    async def ended(self) -> QuarterdeckError:
        """Return why, when it has ended without ``stop``.

        One that is stuck since its disk was full is ended once there is room again.
        """
        async with self._changing:
            process = self._process
        if process is None:
            raise RuntimeError("the broker was not started")
        while True:
            while not await _ends_within(process, _LOOK_S):
                if await asyncio.to_thread(self._is_stuck):
                    await _end(process)
                    return self._failure("could not write, and was ended")
            async with self._changing:  # a restart is no end
                now = self._process
            if now is None or now is process:
                return self._failure(f"ended with {process.returncode}")
            process = now

    def _is_stuck(self) -> bool:
        mark = self._command.stuck
        if mark is None:
            return False
        free = shutil.disk_usage(self._command.folder).free
        # On a full disk the log may have found no room either.
        self._was_full |= free < _FULL_BYTES
        return free >= _ROOM_BYTES and (
            self._was_full or mark in _tail(self._command.log)
        )

    async def _spawn(self) -> asyncio.subprocess.Process:
        # a session of its own: Ctrl-C must reach the controller only, which still
        # says goodbye through the broker before it stops it
        try:
            with self._command.output.open("wb") as output:
                return await asyncio.create_subprocess_exec(
                    *self._command.arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise self._failure(f"could not be run: {error}") from error

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = self._clock.monotonic() + START_TIMEOUT_S
        while process.returncode is None:
            last = await self._refusal()
            if last is None:
                return
            if self._clock.monotonic() > deadline:
                raise self._failure(f"not ready in {START_TIMEOUT_S:g} s ({last})")
            await asyncio.sleep(_PROBE_S)
        raise self._failure(f"ended at once with {process.returncode}")

    async def _refusal(self) -> QuarterdeckError | None:
        try:
            wire = await open_wire(self._endpoint, timeout_s=START_TIMEOUT_S)
        except QuarterdeckError as error:
            return error
        wire.close()
        return None

    def _failure(self, what: str) -> RejectedError:
        program = Path(self._command.arguments[0]).name
        last = _end_of(self._command.log) + _end_of(self._command.output)
        said = "\n".join([f"the end of {self._command.log}:", *last[-_LOG_LINES:]])
        return RejectedError(
            Code.BROKER_FAILED,
            f"{program} {what}; {said if last else 'it said nothing'}",
        )


def write_files(folder: Path, files: Mapping[str, str]) -> frozenset[str]:
    """Write generated ``files`` that changed, for the owner's eyes only.

    Returns:
        The names of those that differed from what was there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    changed = set()
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_durable(path, text.encode(), mode=0o600)
            changed.add(name)
    return frozenset(changed)


async def stop_leftover(command: Command) -> None:
    """End the process that an earlier controller started and did not end."""
    pid = _read_pid(command.pid_file)
    if pid is not None and is_running(pid, command.arguments):
        await _end_stranger(pid, command.arguments)
    command.pid_file.unlink(missing_ok=True)


def is_running(pid: int, arguments: Sequence[str]) -> bool:
    """Return whether ``pid`` runs with exactly these arguments."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return line.rstrip(b"\0").split(b"\0")[1:] == [
        argument.encode() for argument in arguments[1:]
    ]


async def _end_stranger(pid: int, arguments: Sequence[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        for _ in range(int(STOP_TIMEOUT_S / _PROBE_S)):
            if not is_running(pid, arguments):
                return
            await asyncio.sleep(_PROBE_S)


async def _ends_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _check_port(endpoint: Endpoint) -> None:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.host, endpoint.port))
        except OSError as error:
            where = f"{endpoint.host}:{endpoint.port}"
            if error.errno == errno.EADDRINUSE:
                raise RejectedError(
                    Code.PORT_TAKEN, f"{where}: {error.strerror}"
                ) from error
            raise RejectedError(
                Code.BROKER_FAILED,
                f"it cannot listen at {where}: {error.strerror}; host and port in"
                " settings.toml must be of this machine",
            ) from error


def _written_since(log: Path, offset: int) -> bytes:
    try:
        with log.open("rb") as file:
            # a log that is shorter than it was has been begun anew
            file.seek(offset if log.stat().st_size >= offset else 0)
            return file.read()
    except OSError:
        return b""


def _end_of(log: Path) -> list[str]:
    return _tail(log).decode("utf-8", "replace").splitlines()


def _tail(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            return file.read()
    except OSError:
        return b""
