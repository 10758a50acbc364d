"""Where samples come from: a folder of recorded ones, as real as a camera.

A source gives samples; whoever pumps them asks the server and tells the source what
became of each. The control process only carries the bytes: reading the tensor in them
is the worker's work.
"""

import asyncio
import csv
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quarterdeck_agent.runtime.server import Server
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError

MAX_SAMPLE_BYTES = 64 << 20
SUFFIXES = (".npy", ".npz")
LABELS = "labels.csv"
_MAGIC = (b"\x93NUMPY", b"PK\x03\x04")
_IDLE_S = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: a ``.npy`` or ``.npz`` file's bytes, and its class where known."""

    name: str
    payload: bytes
    label: int | None = None


class Source(Protocol):
    """Gives samples, one after the other, for as long as there are any."""

    def samples(self) -> AsyncIterator[Sample]:
        """Yield samples at the source's own pace."""
        ...

    def reject(self, sample: Sample, reason: str) -> None:
        """Learn that a sample holds no tensor, so it is not worth giving again."""
        ...


class DirectorySource:
    """The samples in a folder, in the order of their names.

    New files are picked up when the folder was read to its end. A file that is broken
    is skipped with one warning, until it changes.

    Raises:
        RejectedError: ``DATA_INVALID``: the folder or its labels cannot be used.
    """

    def __init__(self, folder: Path, *, interval_s: float, repeat: bool) -> None:
        self._folder = folder
        self._interval_s = interval_s
        self._repeat = repeat
        self._broken: dict[str, tuple[int, int]] = {}
        self._taken: set[str] = set()
        if not folder.is_dir():
            raise _invalid(f"{folder} is not a folder of samples")
        read_labels(folder)
        if not self._names():
            log.warning("no .npy or .npz file is in %s yet", folder)

    async def samples(self) -> AsyncIterator[Sample]:
        """Yield the samples, for ever: again when ``repeat``, else only new ones."""
        while True:
            names, labels = await asyncio.to_thread(self._look)
            for name in names:
                payload = await asyncio.to_thread(self._payload, name)
                self._taken.add(name)
                if payload is not None:
                    yield Sample(name, payload, labels.get(name))
                    await asyncio.sleep(self._interval_s)
            await asyncio.sleep(0 if names else max(_IDLE_S, self._interval_s))

    def reject(self, sample: Sample, reason: str) -> None:
        """Skip the file from now on, until it changes."""
        path = self._folder / sample.name
        with suppress(OSError):
            self._broken[sample.name] = _stamp(path)
            log.warning("sample %s is skipped: %s", path, reason)

    def _look(self) -> tuple[list[str], dict[str, int]]:
        names = self._names()
        return names, self._labels() if names else {}

    def _names(self) -> list[str]:
        try:
            found = sorted(e.name for e in os.scandir(self._folder) if e.is_file())
        except OSError as error:
            log.warning("samples: %s", error)
            return []
        names = [n for n in found if n.endswith(SUFFIXES) and not self._skipped(n)]
        return names if self._repeat else [n for n in names if n not in self._taken]

    def _skipped(self, name: str) -> bool:
        if name not in self._broken:
            return False
        try:
            if _stamp(self._folder / name) == self._broken[name]:
                return True
        except OSError:
            return True
        del self._broken[name]
        return False

    def _payload(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            size = path.stat().st_size
            payload = path.read_bytes() if size <= MAX_SAMPLE_BYTES else b""
        except OSError as error:
            self.reject(Sample(name, b""), str(error))
            return None
        if size > MAX_SAMPLE_BYTES:
            why = f"{size} bytes, at most {MAX_SAMPLE_BYTES} are taken"
        elif not payload.startswith(_MAGIC):
            why = "it is no .npy or .npz file"
        else:
            return payload
        self.reject(Sample(name, b""), why)
        return None

    def _labels(self) -> dict[str, int]:
        try:
            return read_labels(self._folder)
        except RejectedError as error:
            log.warning("labels are ignored: %s", error.detail)
            return {}


def read_labels(folder: Path) -> dict[str, int]:
    """Return the classes in ``labels.csv``, by file name; none when there is no file.

    Raises:
        RejectedError: ``DATA_INVALID`` naming the line that is wrong.
    """
    path = folder / LABELS
    labels: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if header != ["file", "label"]:
                raise _invalid(f"{path}: line 1 is {header}, must be file,label")
            for row in rows:
                name, label = _label(path, rows.line_num, row)
                labels[name] = label
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _invalid(f"{path}: {error}") from error
    return labels


def _label(path: Path, line: int, row: list[str]) -> tuple[str, int]:
    match row:
        case [name, label] if label.isascii() and label.isdigit():
            return name, int(label)
        case _:
            raise _invalid(f"{path}: line {line} is {row}, must be a file and a class")


async def pump(source: Source, server: Server) -> None:
    """Have the server answer every sample of ``source``, one at a time.

    A sample that comes before a model is active waits for one: it may not come again.
    """
    async for sample in source.samples():
        settled = False
        while not settled:
            settled = await _offer(sample, source, server)


async def _offer(sample: Sample, source: Source, server: Server) -> bool:
    """Return whether the sample is done with; False after a wait for a model."""
    try:
        await server.infer(sample.payload, sample.label)
    except QuarterdeckError as error:
        if error.code is Code.NOTHING_ACTIVE:
            await server.until_active()
            return False
        if error.code is Code.REQUEST_INVALID:
            source.reject(sample, error.detail)
        else:
            log.debug("sample %s got no answer: %s", sample.name, error)
    return True


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _invalid(detail: str) -> RejectedError:
    return RejectedError(Code.DATA_INVALID, detail)
