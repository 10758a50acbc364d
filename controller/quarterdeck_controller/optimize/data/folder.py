"""Samples from a folder of ``.npy`` or ``.npz`` files, one sample each, by name.

A model with one input takes ``.npy`` files, one with several ``.npz`` files with one
array per input. A sample comes with the batch's dimension of 1 or without it, and may
differ in shape from the others where the model's own is free. Labels and groups are in
``labels.csv`` (``data.table``).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from quarterdeck_controller.optimize.data import archive, table
from quarterdeck_controller.optimize.data.batch import Batch, Source, invalid
from quarterdeck_controller.optimize.data.fit import (
    check_array,
    check_counts,
    left_out,
    match_names,
)
from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_controller.optimize.intake.shapes import takes_batches
from quarterdeck_controller.optimize.steps import Tensor

SUFFIXES = (".npy", ".npz")


def open_folder(folder: Path, tensors: Sequence[Tensor]) -> Source:
    """Return the samples in ``folder``.

    Raises:
        RejectedError: ``DATA_INVALID`` when there are none, or labels do not fit.
    """
    files = sample_files(folder)
    beside = table.read_table(folder, files)
    first = archive.read_arrays(files[0])
    names = match_names(str(files[0]), first, tensors)

    def batches(rows: Array | None) -> Iterator[Batch]:
        for row in (np.arange(len(files)) if rows is None else rows).tolist():
            inputs = _read(files[row], tensors)
            yield Batch(inputs, *beside.at(np.array([row])))

    size = sum(array.nbytes for array in first.values()) * len(files)
    notes = (*beside.notes, *left_out(names, first))
    return Source(str(folder), len(files), size, batches, notes)


def sample_files(folder: Path) -> list[Path]:
    """Return the files of samples in ``folder``, by name, numbers in them as numbers.

    Raises:
        RejectedError: ``DATA_INVALID`` when there are none, or some of each kind.
    """
    files = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
    if not files:
        raise invalid(
            f"{folder} holds neither .npy nor .npz files, one sample each, nor images "
            "with a preprocess.toml"
        )
    if len({path.suffix for path in files}) > 1:
        raise invalid(f"{folder} holds both .npy and .npz files; bring one kind")
    return sorted(files, key=by_name)


def by_name(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return what to sort by: 2 before 10, and else as the names are spelled."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts], path.as_posix()


def _read(path: Path, tensors: Sequence[Tensor]) -> dict[str, Array]:
    where = str(path)
    arrays = archive.read_arrays(path)
    names = match_names(where, arrays, tensors)
    inputs = {one.name: _one(one, arrays[names[one.name]]) for one in tensors}
    for tensor in tensors:
        array = inputs[tensor.name]
        check_array(where, tensor, array.dtype, array.shape)
    check_counts(where, {name: len(array) for name, array in inputs.items()})
    return inputs


def _one(tensor: Tensor, array: Array) -> Array:
    """Return the sample with the samples' dimension, of 1, in front."""
    rank = len(tensor.shape)
    if array.ndim == rank and takes_batches(tensor) and array.shape[0] == 1:
        return array
    return array[None]
