"""Labels of files: ``labels.csv``, or the folders that the files are in.

``labels.csv`` has a header ``file,label`` or ``file,label,group`` and one line for each
file. A label is an integer, a number, integers joined by spaces (a sequence), or text:
the kind is the narrowest that fits all of them. Sequences are padded with -1.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quarterdeck_controller.optimize.data.batch import invalid
from quarterdeck_controller.optimize.data.beside import PADDING
from quarterdeck_controller.optimize.data.samples import Array

FILE = "labels.csv"
_COLUMNS = (["file", "label"], ["file", "label", "group"])


@dataclass(frozen=True, slots=True)
class Listed:
    """Labels and groups of files, in their order."""

    labels: Array | None = None
    groups: Array | None = None
    notes: tuple[str, ...] = ()

    def at(self, rows: Array) -> tuple[Array | None, Array | None]:
        """Return labels and groups of the files at ``rows``."""
        return (
            None if self.labels is None else self.labels[rows],
            None if self.groups is None else self.groups[rows],
        )


def read_table(folder: Path, files: Sequence[Path]) -> Listed:
    """Return what ``labels.csv`` in ``folder`` says of ``files``; nothing without it.

    Raises:
        RejectedError: ``DATA_INVALID`` when it cannot be read, or does not name every
            file exactly once.
    """
    path = folder / FILE
    if not path.exists():
        return Listed()
    lines = _read(path)
    found = {line[0]: line for line in lines}
    if len(found) < len(lines):
        twice = next(one[0] for one in lines if found[one[0]] is not one)
        raise invalid(f"{path} names {twice} more than once")
    names = [file.relative_to(folder).as_posix() for file in files]
    if missing := [name for name in names if name not in found]:
        raise invalid(f"{path} has no line for {_some(missing)}")
    if beyond := sorted(found.keys() - set(names)):
        raise invalid(f"{path} names {_some(beyond)}, which is not there")
    labels = parse_labels([found[name][1] for name in names])
    grouped = len(lines[0]) == len(_COLUMNS[1])
    groups = np.array([found[name][2] for name in names]) if grouped else None
    return Listed(labels, groups)


def parse_labels(texts: Sequence[str]) -> Array:
    """Return the labels that ``texts`` are; see the module."""
    texts = [text.strip() for text in texts]
    try:
        rows = [[int(part) for part in text.split()] for text in texts]
    except ValueError:
        return _numbers_or_text(texts)
    if all(len(row) == 1 for row in rows):
        return np.array(rows, np.int64)[:, 0]
    wide = np.full((len(rows), max(map(len, rows))), PADDING, np.int64)
    for number, row in enumerate(rows):
        wide[number, : len(row)] = row
    return wide


def label_by_folder(folder: Path, files: Sequence[Path]) -> Listed:
    """Return labels from the folders right inside ``folder`` that the files are in.

    Folders that are called by integers are these classes; others are numbered from 0
    in the order of their names. Files that are in none have no labels.
    """
    names = [file.relative_to(folder).parts[0] for file in files]
    if any(file.parent == folder for file in files):
        return Listed()
    different = sorted(set(names))
    if all(name.isdecimal() for name in different):
        return Listed(np.array([int(name) for name in names], np.int64))
    numbers = {name: number for number, name in enumerate(different)}
    told = ", ".join(f"{number} is {name}" for name, number in numbers.items())
    return Listed(
        np.array([numbers[name] for name in names], np.int64),
        notes=(f"classes are numbered in the order of the folders' names: {told}",),
    )


def _read(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise invalid(f"{path} could not be read: {error}") from error
    if not lines or [one.strip() for one in lines[0]] not in _COLUMNS:
        raise invalid(f"{path} must begin with the line file,label or file,label,group")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise invalid(
                f"{path}, line {number} has {len(line)} fields, the first line has "
                f"{len(lines[0])}"
            )
    if len(lines) == 1:
        raise invalid(f"{path} names no file")
    return lines[1:]


def _numbers_or_text(texts: Sequence[str]) -> Array:
    try:
        return np.array([float(text) for text in texts])
    except ValueError:
        return np.array(texts)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > len("abc") else ""
    return ", ".join(names[:3]) + more
