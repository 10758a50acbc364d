"""The data that calibrates and judges: loaded, checked against the model, thinned.

A file is an ``.npz`` with one array per model input, named like the input, samples
first. For a model with a single input a single array of any name will do. An array
called ``labels``, optional, holds one integer class per sample. Nothing is unpickled.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize.steps import Tensor
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

LABELS = "labels"
_ZIP = b"PK"
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs, samples first, with their labels where known.

    Attributes:
        inputs: One array per model input.
        labels: One integer class per sample.
        origin: What to call this data in an error.
    """

    inputs: Mapping[str, Array]
    labels: Array | None = None
    origin: str = "the data"

    def __len__(self) -> int:
        return min((len(array) for array in self.inputs.values()), default=0)


@dataclass(frozen=True, slots=True)
class Data:
    """What an optimization works with.

    Ranges come from one, the verdict from the other: the two must not share samples.
    """

    calibration: Samples
    evaluation: Samples


def load_samples(path: Path) -> Samples:
    """Return what the ``.npz`` file at ``path`` holds.

    Raises:
        RejectedError: ``DATA_INVALID`` when it is no such file, or holds pickles.
    """
    try:
        with path.open("rb") as file:
            if not file.read(len(_ZIP)).startswith(_ZIP):
                raise _invalid(
                    f"{path} is no .npz file, such as numpy.savez writes, one array "
                    "per model input"
                )
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        why = error.strerror or "it is no .npz file"
        raise _invalid(f"{path} could not be read: {why}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise _invalid(f"{path} is no .npz file of plain arrays: {error}") from error
    labels = arrays.pop(LABELS, None)
    return Samples(arrays, labels, str(path))


def fit(samples: Samples, tensors: Sequence[Tensor]) -> Samples:
    """Return ``samples`` with exactly the model's inputs, in the model's order.

    Raises:
        RejectedError: ``DATA_INVALID`` when an input is missing, has the wrong type
            or shape, holds no samples or NaN, or when the labels do not match.
    """
    where = samples.origin
    found = _by_name(samples, tensors)
    for tensor in tensors:
        _check_array(where, tensor, found[tensor.name])
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) > 1:
        raise _invalid(f"{where}: the inputs have different sample counts: {counts}")
    count = next(iter(counts.values()))
    if count == 0:
        raise _invalid(f"{where} holds no samples")
    if samples.labels is not None:
        _check_labels(where, samples.labels, count)
    return replace(samples, inputs=found)


def check_label_range(samples: Samples, classes: int | None) -> None:
    """Refuse labels that name no class of a model with ``classes`` scores.

    Raises:
        RejectedError: ``DATA_INVALID`` when they do not fit, or when the model gives
            no class scores (``classes`` is None).
    """
    if samples.labels is None:
        return
    where = samples.origin
    if classes is None:
        raise _invalid(
            f"{where} has labels, but the model's scores are not of shape "
            "[samples, classes]; leave the labels out to judge by agreement with float"
        )
    low, high = int(samples.labels.min()), int(samples.labels.max())
    if low < 0 or high >= classes:
        raise _invalid(
            f"{where}: labels run from {low} to {high}, the model has {classes} "
            f"classes (0 to {classes - 1})"
        )


def thin(samples: Samples, most: int) -> Samples:
    """Return at most ``most`` samples, evenly spaced over all of them."""
    count = len(samples)
    if count <= most:
        return samples
    rows = np.linspace(0, count - 1, most).astype(np.int64)
    return pick(samples, rows)


def pick(samples: Samples, rows: Array) -> Samples:
    """Return the samples at ``rows``."""
    inputs = {name: array[rows] for name, array in samples.inputs.items()}
    labels = None if samples.labels is None else samples.labels[rows]
    return replace(samples, inputs=inputs, labels=labels)


def digest(samples: Samples) -> str:
    """Return the sha256 of every array with its name, type and shape."""
    state = hashlib.sha256()
    arrays = dict(samples.inputs)
    if samples.labels is not None:
        arrays[LABELS] = samples.labels
    for name, array in arrays.items():
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def row_digests(samples: Samples) -> set[bytes]:
    """Return one digest per different sample, to find the same one elsewhere."""
    rows = zip(*samples.inputs.values(), strict=True)
    return {
        hashlib.sha256(b"".join(part.tobytes() for part in row)).digest()
        for row in rows
    }


def store(samples: Samples, folder: Path) -> None:
    """Write one ``.npy`` per input into ``folder``, numbered in the model's order.

    A child maps these instead of reading them, so that the samples do not count as
    memory of the model.
    """
    folder.mkdir(parents=True)
    for number, array in enumerate(samples.inputs.values()):
        np.save(folder / f"{number}.npy", np.ascontiguousarray(array))


def _by_name(samples: Samples, tensors: Sequence[Tensor]) -> dict[str, Array]:
    names = [tensor.name for tensor in tensors]
    brought = sorted(samples.inputs)
    if len(names) == 1 and len(brought) == 1:
        return {names[0]: samples.inputs[brought[0]]}
    missing = [name for name in names if name not in samples.inputs]
    if missing:
        raise _invalid(
            f"{samples.origin}: no array for input {', '.join(missing)}; the model "
            f"takes {', '.join(names)}, the data has {', '.join(brought) or 'none'}"
        )
    return {name: samples.inputs[name] for name in names}


def _check_array(where: str, tensor: Tensor, array: Array) -> None:
    if array.dtype != np.dtype(tensor.dtype):
        raise _invalid(
            f"{where}: {tensor.name} is {array.dtype}, the model takes {tensor.dtype}; "
            f"save it with .astype('{tensor.dtype}')"
        )
    expected = ("N", *("any" if d is None else d for d in tensor.shape[1:]))
    rank_fits = array.ndim == len(tensor.shape)
    if not rank_fits or any(
        want is not None and want != got
        for want, got in zip(tensor.shape[1:], array.shape[1:], strict=True)
    ):
        shown = ", ".join(str(d) for d in expected)
        raise _invalid(
            f"{where}: {tensor.name} has shape {list(array.shape)}, the model takes "
            f"[{shown}] with the N samples first"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0][0])
        raise _invalid(f"{where}: {tensor.name} holds NaN or infinity in sample {bad}")


def _check_labels(where: str, labels: Array, count: int) -> None:
    if labels.dtype.kind not in "iu":
        raise _invalid(
            f"{where}: labels are {labels.dtype}, they must be integers (the number "
            "of the class, from 0)"
        )
    if labels.shape != (count,):
        raise _invalid(
            f"{where}: labels have shape {list(labels.shape)}, there are {count} "
            f"samples; bring shape [{count}]"
        )


def _invalid(detail: str) -> RejectedError:
    return RejectedError(Code.DATA_INVALID, detail)
