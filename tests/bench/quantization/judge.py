"""How the benchmark itself judges outputs, apart from the optimizer that it measures.

A benchmark must not trust what it measures: nothing of the optimizer's own metrics is
used here. Every kind of output is first turned into answers, one per sample, which are
then held against the labels, or against the float model's answers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from tests.bench.quantization.task import LABELS, Array

Answers = list[str]
"""What a model says about each sample, as text that can be compared."""
Outputs = Iterable[Sequence[Array]]
"""Each sample's outputs, in the model's order, with a batch of one."""

BLANK = 0
FACE_ABOVE = -0.15
"""Between faces and others the float BlazeFace's best scores are apart here."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A way to judge.

    Attributes:
        answers: What the outputs say; of retrieval, one for each query.
        right: Which answers are right, by the evaluation's arrays.
    """

    answers: Callable[[Outputs], Answers]
    right: Callable[[Answers, Mapping[str, Array]], Array]


def _top(outputs: Outputs) -> Answers:
    return [str(int(np.asarray(out[0]).argmax())) for out in outputs]


def _above_half(outputs: Outputs) -> Answers:
    return [str(int(np.asarray(out[0]).item() > 0.5)) for out in outputs]


def _face(outputs: Outputs) -> Answers:
    best = [max(float(out[0].max()), float(out[1].max())) for out in outputs]
    return [str(int(one > FACE_ABOVE)) for one in best]


def _line(outputs: Outputs) -> Answers:
    """Decode by CTC: the best class at each place, repeats once, blanks not at all."""
    found = []
    for out in outputs:
        path = [BLANK, *np.asarray(out[0])[0].argmax(axis=-1).tolist()]
        kept = [b for a, b in pairwise(path) if b not in (a, BLANK)]
        found.append(" ".join(map(str, kept)))
    return found


def _found(outputs: Outputs) -> Answers:
    """Answer each query, the first half, with the nearest of the second by cosine."""
    vectors = np.stack([np.asarray(out[0]).ravel() for out in outputs])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, texts = np.split(vectors, 2)
    return [str(one) for one in (queries @ texts.T).argmax(axis=1)]


def _is_label(answers: Answers, data: Mapping[str, Array]) -> Array:
    named = np.array([int(one) for one in answers])
    return np.asarray(named == data[LABELS])


def _is_line(answers: Answers, data: Mapping[str, Array]) -> Array:
    truth = [" ".join(str(c) for c in row if c >= 0) for row in data[LABELS].tolist()]
    return np.asarray(np.array(answers) == np.array(truth))


def _has_label(answers: Answers, data: Mapping[str, Array]) -> Array:
    wanted, there = np.split(data[LABELS], 2)
    return np.asarray(there[[int(one) for one in answers]] == wanted)


JUDGES: MappingProxyType[str, Judge] = MappingProxyType(
    {
        "class": Judge(_top, _is_label),
        "probability": Judge(_above_half, _is_label),
        "face": Judge(_face, _is_label),
        "line": Judge(_line, _is_line),
        "found": Judge(_found, _has_label),
    }
)


def character_errors(answers: Answers, data: Mapping[str, Array]) -> float:
    """Return the share of characters that are wrong, of ``line`` answers.

    Levenshtein's distance to the truth, over the truth's characters.
    """
    distance = letters = 0
    for answer, row in zip(answers, data[LABELS].tolist(), strict=True):
        truth = [str(c) for c in row if c >= 0]
        distance += _distance(answer.split(), truth)
        letters += len(truth)
    return distance / letters


def _distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            best = min(before + (x != y), row[j] + 1, row[j - 1] + 1)
            before, row[j] = row[j], best
    return row[-1]
