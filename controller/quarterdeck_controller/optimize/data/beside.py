"""Labels and groups on their way to their file: spooled, then made one array.

Batches may bring sequences of different lengths and texts of different widths; only at
the end is it known how wide the array must be. Sequences are padded with ``PADDING``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quarterdeck_controller.optimize.data.batch import invalid
from quarterdeck_controller.optimize.data.samples import LABELS, Array

PADDING = -1
_KINDS = {"b": "i", "i": "i", "u": "i", "f": "f", "S": "U", "U": "U"}


@dataclass(slots=True)
class Beside:
    """Collects ``labels`` or ``groups`` beside the stored samples in ``folder``."""

    where: str
    what: str
    folder: Path
    _parts: list[tuple["np.dtype[Any]", tuple[int, ...]]] = field(default_factory=list)

    def add(self, array: Array, count: int) -> None:
        """Append one entry for each of ``count`` samples.

        Raises:
            RejectedError: ``DATA_INVALID`` when there are more or fewer, when they are
                of another kind than those before, or not numbers.
        """
        self._check(array, count)
        with self._path("spool").open("ab") as spool:
            spool.write(np.ascontiguousarray(array).tobytes())
        self._parts.append((array.dtype, array.shape))

    def finish(self) -> Array | None:
        """Write the file and return it, mapped; None when there was nothing."""
        if not self._parts:
            return None
        path = self._path("npy")
        shape = (sum(shape[0] for _, shape in self._parts), *self._inner())
        dtype = np.result_type(*{part[0].str: part[0] for part in self._parts}.values())
        out = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=shape)
        row = 0
        with self._path("spool").open("rb") as spool:
            for kind, part in self._parts:
                flat = np.frombuffer(spool.read(kind.itemsize * _size(part)), kind)
                out[row : row + part[0]] = _padded(flat.reshape(part), shape[1:])
                row += part[0]
        out.flush()
        self._path("spool").unlink()
        return out

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.what}.{suffix}"

    def _inner(self) -> tuple[int, ...]:
        inner = {shape[1:] for _, shape in self._parts}
        if len(inner) == 1:
            return inner.pop()
        return (max(shape[0] for shape in inner),)

    def _check(self, array: Array, count: int) -> None:
        if array.ndim == 0 or len(array) != count:
            raise invalid(
                f"{self.where}: {self.what} have shape {list(array.shape)}, there are "
                f"{count} samples; bring shape [{count}]"
            )
        kind = _KINDS.get(array.dtype.kind)
        if kind is None:
            raise invalid(
                f"{self.where}: {self.what} are {array.dtype}; bring integers, floats "
                "or text"
            )
        if self.what != LABELS and (array.ndim != 1 or kind == "f"):
            raise invalid(
                f"{self.where}: {self.what} are {array.dtype} of shape "
                f"{list(array.shape)}; bring one integer or text a sample"
            )
        if kind == "f" and not np.isfinite(array).all():
            bad = sum(part[1][0] for part in self._parts)
            bad += int(np.argwhere(~np.isfinite(array))[0][0])
            raise invalid(
                f"{self.where}: {self.what} hold NaN or infinity in sample {bad}"
            )
        if self._parts:
            self._check_against(kind, array)

    def _check_against(self, kind: str, array: Array) -> None:
        dtype, shape = self._parts[0]
        sequences = kind == "i" and array.ndim == len(shape) == len(("n", "length"))
        if _KINDS[dtype.kind] != kind or (
            array.shape[1:] != shape[1:] and not sequences
        ):
            raise invalid(
                f"{self.where}: {self.what} of {array.dtype} and shape "
                f"{list(array.shape[1:])} follow such of {dtype} and "
                f"{list(shape[1:])}; bring one kind for all samples"
            )


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _padded(array: Array, inner: tuple[int, ...]) -> Array:
    if array.shape[1:] == inner:
        return array
    wide = np.full((len(array), *inner), PADDING, array.dtype)
    wide[:, : array.shape[1]] = array
    return wide
