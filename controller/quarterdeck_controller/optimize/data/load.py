"""Read samples from wherever they are into a folder of stored samples. Runs in a child.

A source is recognized by what is there:

- an ``.npz`` or ``.npy`` file (``data.archive``),
- a folder of one ``.npy`` or ``.npz`` file per sample (``data.folder``),
- a folder of images with a ``preprocess.toml`` (``data.images``),
- a Python function that yields batches, ``module:function`` or ``file.py:function``
  (``data.entry``).

Samples pass through one by one: they are held against the model's inputs, hashed and
written, and memory stays flat in their number.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quarterdeck_controller.optimize.data import images
from quarterdeck_controller.optimize.data.archive import open_archive
from quarterdeck_controller.optimize.data.batch import Batch, Source, invalid
from quarterdeck_controller.optimize.data.beside import Beside
from quarterdeck_controller.optimize.data.entry import names_function, open_function
from quarterdeck_controller.optimize.data.fit import check_array, check_values
from quarterdeck_controller.optimize.data.folder import open_folder
from quarterdeck_controller.optimize.data.samples import GROUPS, LABELS, Array
from quarterdeck_controller.optimize.data.split import thinned
from quarterdeck_controller.optimize.data.stored import Writer
from quarterdeck_controller.optimize.steps import Loaded, LoadRequest, Tensor
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_BYTES = 64 << 30
MAX_UNCOUNTED = 1_000_000
"""Samples taken at most from a source that does not say how many it has."""
SPARE_BYTES = 256 << 20
"""Left free on the disk."""


def load(request: LoadRequest, *, most_bytes: int = MAX_BYTES) -> Loaded:
    """Write the samples into ``request.out``; ``labels.npy``, ``groups.npy`` beside.

    Raises:
        RejectedError: ``DATA_INVALID`` when they cannot be read, do not fit the
            model's inputs, are none, or are more than ``most_bytes`` or the disk hold;
            ``DISK_FULL`` or ``DISK_FAILED`` when they cannot be written.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    source = open_source(request.source, request.inputs, request.out)
    rows = None
    if source.count is not None and request.most is not None:
        rows = thinned(source.count, request.most)
    taken = source.count if rows is None else len(rows)
    _check_room(source, taken, request.out, most_bytes)
    limit = min(request.most or MAX_UNCOUNTED, MAX_UNCOUNTED)
    sink = _Sink(source.origin, request.inputs, request.out, most_bytes)
    try:
        more = sink.drain(source.batches(rows), None if source.count else limit)
    except OSError as error:
        told = f"samples could not be written to {request.out}: {error.strerror}"
        raise RejectedError(disk_code(error), told) from error
    notes = (*source.notes, *_about_count(source, sink.count, limit, more=more))
    return Loaded(
        count=sink.count,
        labels=(request.out / f"{LABELS}.npy").exists(),
        groups=(request.out / f"{GROUPS}.npy").exists(),
        sha256=sink.digest(),
        notes=notes,
    )


def open_source(given: str, tensors: Sequence[Tensor], scratch: Path) -> Source:
    """Return the source that ``given`` names; see the module.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is none.
    """
    path = Path(given)
    if path.is_dir():
        if (path / images.FILE).exists():
            return images.open_images(path, tensors)
        return open_folder(path, tensors)
    if not path.exists() and names_function(given):
        return open_function(given, tensors)
    return open_archive(path, tensors, scratch)


@dataclass(slots=True)
class _Sink:
    """Checks, hashes and writes what comes."""

    where: str
    tensors: Sequence[Tensor]
    folder: Path
    most_bytes: int
    count: int = 0
    _bytes: int = 0
    _ways: dict[str, str] = field(default_factory=dict)
    _hash: "_Hash" = field(default_factory=hashlib.sha256)
    _beside: dict[str, Beside] = field(default_factory=dict)

    def drain(self, batches: Iterator[Batch], limit: int | None) -> bool:
        """Take batches up to ``limit`` samples; return whether there were more."""
        first = next(batches, None)
        if first is None or len(first) == 0:
            raise invalid(f"{self.where} holds no samples")
        self._look_at(first)
        whole = frozenset(name for name, way in self._ways.items() if way == "whole")
        more = False
        with Writer(self.folder, whole) as writer:
            for batch in chain([first], batches):
                part = batch if limit is None else _head(batch, limit - self.count)
                more = len(part) < len(batch)
                self._take(writer, part)
                if more or self.count == limit:
                    break
            else:
                limit = None
        more = more or (limit is not None and next(batches, None) is not None)
        self._finish()
        return more

    def digest(self) -> str:
        """Return the sha256 of all that was taken."""
        return self._hash.hexdigest()

    def _look_at(self, first: Batch) -> None:
        for tensor in self.tensors:
            array = first.inputs[tensor.name]
            way = check_array(self.where, tensor, array.dtype, array.shape)
            self._ways[tensor.name] = way
            self._hash.update(f"{tensor.name} {array.dtype.str} {way}\n".encode())
        for what, found in ((LABELS, first.labels), (GROUPS, first.groups)):
            if found is not None:
                self._beside[what] = Beside(self.where, what, self.folder)

    def _take(self, writer: Writer, batch: Batch) -> None:
        feed = {one.name: batch.inputs[one.name] for one in self.tensors}
        for tensor in self.tensors:
            array = feed[tensor.name]
            way = check_array(self.where, tensor, array.dtype, array.shape)
            if way != self._ways[tensor.name] or len(array) != len(batch):
                raise invalid(
                    f"{self.where}: {tensor.name} has shape {list(array.shape)} from "
                    f"sample {self.count} on, which is not as before"
                )
            check_values(self.where, tensor.name, array, self.count)
        self._bytes += sum(array.nbytes for array in feed.values())
        if self._bytes > self.most_bytes:
            raise invalid(f"{self.where} holds more than {self.most_bytes} bytes")
        writer.add(feed)
        self._hash_rows(feed)
        for what, found in ((LABELS, batch.labels), (GROUPS, batch.groups)):
            if (found is None) != (what not in self._beside):
                raise invalid(f"{self.where}: only some of the samples have {what}")
            if found is not None:
                self._beside[what].add(found, len(batch))
        self.count += len(batch)

    def _hash_rows(self, feed: Mapping[str, Array]) -> None:
        for row in zip(*feed.values(), strict=True):
            for part in row:
                self._hash.update(repr(np.shape(part)).encode())
                self._hash.update(part.tobytes())

    def _finish(self) -> None:
        for what, beside in self._beside.items():
            array = beside.finish()
            if array is None:
                continue
            self._hash.update(f"{what} {array.dtype.str} {array.shape}\n".encode())
            for row in array:
                self._hash.update(row.tobytes())


def _head(batch: Batch, count: int) -> Batch:
    if len(batch) <= count:
        return batch
    return Batch(
        {name: array[:count] for name, array in batch.inputs.items()},
        None if batch.labels is None else batch.labels[:count],
        None if batch.groups is None else batch.groups[:count],
    )


def _check_room(
    source: Source, taken: int | None, folder: Path, most_bytes: int
) -> None:
    if source.size is None or not source.count or taken is None:
        return
    size = source.size // source.count * taken
    if size > most_bytes:
        raise invalid(
            f"{source.origin} declares {source.size} bytes of samples; at most "
            f"{most_bytes} are read"
        )
    free = max(shutil.disk_usage(folder).free - SPARE_BYTES, 0)
    if size > free:
        raise invalid(
            f"{source.origin}: its {size} bytes of samples do not fit the {free} bytes "
            f"that are free at {folder}"
        )


def _about_count(
    source: Source, count: int, limit: int, *, more: bool
) -> tuple[str, ...]:
    if more:
        return (f"the first {limit} samples were taken, and there are more",)
    if source.count is not None and count < source.count:
        return (f"{count} of {source.count} samples were taken, evenly spaced",)
    if count == 1:
        return ("there is a single sample, which proves little",)
    return ()
