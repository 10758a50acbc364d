"""Metrics of sequences: the character error rate, and whether all is right.

Scores are [samples, steps, classes], or one [steps, classes] for each sample where the
steps differ. Labels are integers padded with -1, [samples, length], or texts with a
file that has one character a line, in the order of the classes without the blank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quarterdeck_controller.optimize.metric.evidence import Ratio, mean
from quarterdeck_controller.optimize.metric.metric import (
    About,
    Array,
    Evidence,
    Output,
    Outputs,
    finite,
    misfit,
    pick,
)

UNKNOWN = -2
"""Stands in a label for a character that the model has no class for."""

Decoded = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decoder:
    """How scores of steps become a sequence.

    Attributes:
        blank: The class of connectionist temporal classification that is nothing:
            the best classes of all steps, repeats made one, without the blank (Graves
            et al. 2006, best path). None is that every step counts.
        charset: The class of each character.
    """

    blank: int | None = 0
    charset: Mapping[str, int] = field(default_factory=dict)

    def decode(self, output: Output) -> list[Decoded]:
        """Return the sequence of each sample; an output of integers is decoded.

        Raises:
            RejectedError: ``DATA_INVALID`` when these are no scores of steps.
        """
        return [self._decode(np.asarray(one)) for one in output]

    def wanted(self, labels: Array) -> list[Decoded]:
        """Return the sequence of each label.

        Raises:
            RejectedError: ``DATA_INVALID`` when it is neither integers nor text.
        """
        if labels.dtype.kind == "U" and labels.ndim == 1:
            if not self.charset:
                raise misfit("labels are text: name its characters with charset=FILE")
            return [
                tuple(self.charset.get(character, UNKNOWN) for character in str(text))
                for text in labels
            ]
        if labels.dtype.kind not in "iu" or labels.ndim > len(("samples", "length")):
            raise misfit(
                f"labels of {labels.dtype} and shape {list(labels.shape)} are no "
                "sequences: bring integers padded with -1, or text"
            )
        rows = labels.reshape(len(labels), -1).tolist()
        return [tuple(one for one in row if one >= 0) for row in rows]

    def _decode(self, scores: Array) -> Decoded:
        if scores.dtype.kind in "iu":
            best = scores.reshape(-1)
        else:
            steps = [size for size in scores.shape[:-1] if size != 1]
            if scores.ndim == 0 or len(steps) > 1:
                raise misfit(
                    f"a sample's scores have shape {list(scores.shape)}, not [steps, "
                    "classes]"
                )
            best = scores.reshape(-1, scores.shape[-1]).argmax(axis=1)
        if self.blank is None:
            return tuple(best[best >= 0].tolist())
        first = np.ones(len(best), bool)
        first[1:] = best[1:] != best[:-1]
        return tuple(best[first & (best != self.blank) & (best >= 0)].tolist())


@dataclass(frozen=True, slots=True)
class Cer:
    """Characters to insert, delete or replace, as a share of those that are wanted."""

    about: About
    decoder: Decoder

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return edits and lengths of each sample; see ``Metric``."""
        del reference
        assert labels is not None
        output = pick(outputs, self.about.output)
        given, wanted = self.decoder.decode(output), self.decoder.wanted(labels)
        whole = np.array([len(one) for one in wanted], np.float64)
        edits = np.array(
            [edit_distance(a, b) for a, b in zip(given, wanted, strict=True)],
            np.float64,
        )
        broken = ~finite(output)
        edits[broken] = np.maximum(edits[broken], whole[broken])
        return Ratio(edits, whole)

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where both are decoded to the same; see ``Metric``."""
        return _same(self.decoder, self.about, outputs, reference)


@dataclass(frozen=True, slots=True)
class Exact:
    """Whether the whole sequence is right."""

    about: About
    decoder: Decoder

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return whether each sample is right; see ``Metric``."""
        del reference
        assert labels is not None
        output = pick(outputs, self.about.output)
        given, wanted = self.decoder.decode(output), self.decoder.wanted(labels)
        if self.decoder.blank is None:
            given = _without_padding(given, labels)
        right = [a == b for a, b in zip(given, wanted, strict=True)]
        return mean(np.array(right) & finite(output))

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where both are decoded to the same; see ``Metric``."""
        return _same(self.decoder, self.about, outputs, reference)


def edit_distance(given: Sequence[int], wanted: Sequence[int]) -> int:
    """Return the fewest insertions, deletions and replacements (Levenshtein 1966)."""
    target = np.asarray(wanted, np.int64)
    steps = np.arange(len(target) + 1)
    row = steps.copy()
    for one in given:
        least = np.empty_like(row)
        least[0] = row[0] + 1
        least[1:] = np.minimum(row[1:] + 1, row[:-1] + (target != one))
        row = np.minimum.accumulate(least - steps) + steps
    return int(row[-1])


def read_charset(path: str, blank: int | None) -> dict[str, int]:
    """Return the class of each character in a file of one a line.

    Raises:
        RejectedError: ``DATA_INVALID`` when it cannot be read.
    """
    try:
        lines = Path(path).read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise misfit(f"the charset {path} could not be read: {error}") from error
    return {
        line.removesuffix("\r"): number + (blank is not None and number >= blank)
        for number, line in enumerate(lines)
    }


def _without_padding(given: list[Decoded], labels: Array) -> list[Decoded]:
    """Leave out the steps at which nothing is labelled."""
    if labels.dtype.kind not in "iu":
        return given
    rows = labels.reshape(len(labels), -1)
    longest = max(map(len, given))
    if longest > rows.shape[1]:
        raise misfit(
            f"there are {longest} steps and labels for {rows.shape[1]}: bring one for "
            "each, or say which class is the blank with exact:blank=0"
        )
    return [
        tuple(np.asarray(one, np.int64)[row[: len(one)] >= 0].tolist())
        for one, row in zip(given, rows, strict=True)
    ]


def _same(
    decoder: Decoder, about: About, outputs: Outputs, reference: Outputs
) -> Array:
    mine, theirs = pick(outputs, about.output), pick(reference, about.output)
    pairs = zip(decoder.decode(mine), decoder.decode(theirs), strict=True)
    return np.array([a == b for a, b in pairs]) & finite(mine)
