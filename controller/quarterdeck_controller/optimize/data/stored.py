"""Samples and outputs in a folder: written as a stream, mapped when read.

One flat file per array and a manifest. Arrays whose samples differ in shape or rank are
stored too, one after the other, with their shapes beside them; they are read one by
one. So are arrays that are fed whole: each sample is a complete tensor of the model,
which has no dimension for a batch. Memory stays flat in the number of samples on both
sides, and what a child maps does not count as memory of the model.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Feed = dict[str, Array]
"""Arrays by name, samples first."""

MANIFEST = "manifest.json"
NO_DIMENSION = -1
"""Fills the row of a sample of lower rank in the file of shapes."""


@dataclass(slots=True)
class Writer:
    """Writes batches of samples into an empty or new ``folder``.

    Attributes:
        whole: Arrays of which each sample is one complete tensor.
    """

    folder: Path
    whole: frozenset[str] = frozenset()
    _files: dict[str, BinaryIO] = field(default_factory=dict)
    _shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    _dtypes: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            self._finish()

    def add(self, feed: Mapping[str, Array]) -> None:
        """Append every sample of ``feed``, whose arrays have the samples first.

        Raises:
            ValueError: An array is missing, or of another type than before.
        """
        if not self._files:
            for number, name in enumerate(feed):
                self._files[name] = (self.folder / f"{number}.bin").open("wb")
                self._shapes[name] = []
                self._dtypes[name] = feed[name].dtype.str
        if feed.keys() != self._files.keys():
            raise ValueError(f"{sorted(feed)} after {sorted(self._files)}")
        for name, array in feed.items():
            if array.dtype.str != self._dtypes[name]:
                raise ValueError(
                    f"{name} is {array.dtype.str} after {self._dtypes[name]}"
                )
            self._files[name].write(np.ascontiguousarray(array).tobytes())
            self._shapes[name] += [array.shape[1:]] * len(array)

    def _finish(self) -> None:
        arrays = []
        for number, (name, shapes) in enumerate(self._shapes.items()):
            same = len(set(shapes)) <= 1
            entry: dict[str, object] = {
                "name": name,
                "dtype": self._dtypes[name],
                "fed": "whole" if name in self.whole else "batch",
            }
            if same:
                entry["shape"] = list(shapes[0]) if shapes else []
            else:
                np.save(self.folder / f"{number}-shapes.npy", _table(shapes))
            arrays.append(entry)
        count = len(next(iter(self._shapes.values()), []))
        manifest = {"count": count, "arrays": arrays}
        (self.folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a ``Writer`` wrote, mapped.

    Attributes:
        uniform: Whether all samples of every array have one shape and none is fed
            whole; only then can several be read at once.
    """

    folder: Path
    count: int
    uniform: bool
    _columns: Mapping[str, "_Column"]

    @classmethod
    def open(cls, folder: Path) -> "Stored":
        """Return what is in ``folder``."""
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        columns = {
            entry["name"]: _Column.open(folder, number, entry, manifest["count"])
            for number, entry in enumerate(manifest["arrays"])
        }
        uniform = all(
            column.shape is not None and not column.whole_tensors
            for column in columns.values()
        )
        return cls(folder, manifest["count"], uniform, columns)

    def __len__(self) -> int:
        return self.count

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in the order they were written."""
        return tuple(self._columns)

    def sample(self, row: int) -> Feed:
        """Return one sample as a model takes it: a batch of one, or whole."""
        return {name: column.fed(row) for name, column in self._columns.items()}

    @property
    def whole(self) -> frozenset[str]:
        """Names of the arrays of which each sample is one complete tensor."""
        return frozenset(n for n, one in self._columns.items() if one.whole_tensors)

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Feed]:
        """Yield samples, ``size`` at a time, or one by one when not uniform.

        Args:
            size: How many at once.
            rows: Which, in this order; None is all.
        """
        chosen = np.arange(self.count) if rows is None else np.asarray(rows, np.int64)
        step = size if self.uniform else 1
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            if not self.uniform:
                yield self.sample(int(part[0]))
                continue
            yield {name: column.rows(part) for name, column in self._columns.items()}

    def array(self, name: str) -> Array:
        """Return all of one array, samples first, mapped.

        Raises:
            ValueError: Its samples differ in shape.
        """
        return self._columns[name].whole()

    def samples(self, name: str) -> Iterator[Array]:
        """Yield one array's samples, each without the batch's dimension."""
        column = self._columns[name]
        return (column.at(row) for row in range(self.count))

    def same_shape(self, name: str) -> bool:
        """Return whether all samples of one array have one shape."""
        return self._columns[name].shape is not None


@dataclass(frozen=True, slots=True)
class _Column:
    data: Array
    whole_tensors: bool
    shape: tuple[int, ...] | None
    shapes: Array | None
    starts: Array | None

    @classmethod
    def open(
        cls, folder: Path, number: int, entry: Mapping[str, Any], count: int
    ) -> "_Column":
        path, dtype = folder / f"{number}.bin", np.dtype(entry["dtype"])
        empty = path.stat().st_size == 0
        data = np.empty(0, dtype) if empty else np.memmap(path, dtype, mode="r")
        whole = entry["fed"] == "whole"
        if "shape" in entry:
            shape = tuple(entry["shape"])
            return cls(data.reshape(count, *shape), whole, shape, None, None)
        shapes = np.load(folder / f"{number}-shapes.npy", allow_pickle=False)
        sizes = np.where(shapes == NO_DIMENSION, 1, shapes).prod(axis=1)
        return cls(data, whole, None, shapes, np.concatenate([[0], np.cumsum(sizes)]))

    def fed(self, row: int) -> Array:
        return self.at(row) if self.whole_tensors else self.at(row)[None]

    def at(self, row: int) -> Array:
        if self.shapes is None or self.starts is None:
            return np.array(self.data[row])
        flat = self.data[self.starts[row] : self.starts[row + 1]]
        shape = self.shapes[row]
        return np.array(flat).reshape(shape[shape != NO_DIMENSION])

    def rows(self, rows: Array) -> Array:
        return np.ascontiguousarray(self.data[rows])

    def whole(self) -> Array:
        if self.shape is None:
            raise ValueError("its samples differ in shape")
        return self.data


def _table(shapes: Sequence[tuple[int, ...]]) -> Array:
    table = np.full((len(shapes), max(map(len, shapes))), NO_DIMENSION, np.int64)
    for row, shape in enumerate(shapes):
        table[row, : len(shape)] = shape
    return table
