"""One step of learning and one examination, the same whatever the schedule."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.train.exactness import to_tensors
from quarterdeck_controller.optimize.train.loss import agreement, distance
from quarterdeck_controller.optimize.train.student import Student
from quarterdeck_controller.optimize.train.target import Target
from quarterdeck_controller.optimize.train.teacher import Teacher, feed_of

Array = NDArray[Any]

SCALES = 0.02
"""Learning rate of a scale's logarithm, as a share of that of weights in steps."""
SPIKE = 3.0
"""A gradient so many times the usual is cut back to that."""
MEMORY = 0.95


@dataclass(frozen=True, slots=True)
class Mark:
    """What an examination found."""

    agreement: float
    loss: float

    def beats(self, other: "Mark") -> bool:
        """Return whether this is better; loss decides between equals."""
        return (self.agreement, -self.loss) > (other.agreement, -other.loss)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Who learns from whom and what.

    Attributes:
        learning: Samples to learn from.
        held: Samples to be examined on.
        labels: One class for each sample, or none.
        batch: Samples of one step.
        at_once: Samples that are run together.
    """

    student: Student
    teacher: Teacher
    targets: tuple[Target, ...]
    samples: Stored
    learning: Array
    held: Array
    labels: Array | None
    batch: int
    at_once: int

    def examine(self) -> Mark:
        """Return how well the student does on the held samples."""
        agreed = lost = 0.0
        with torch.no_grad():
            for rows in parts(self.held, self.at_once):
                answers, given = self._both(rows)
                lost += float(distance(self.targets, answers, given)) * len(rows)
                share = agreement(self.targets[0], answers[0], given[0])
                agreed += share * len(rows)
        return Mark(agreed / len(self.held), lost / len(self.held))

    def backward(self, rows: Array) -> float:
        """Add the gradients of the rows, and return their loss."""
        lost = 0.0
        for some in parts(rows, self.at_once):
            answers, given = self._both(some)
            loss = distance(self.targets, answers, given, self._labels(some))
            (loss * (len(some) / len(rows))).backward()
            lost += float(loss.detach()) * len(some) / len(rows)
        return lost

    def draws(self, seed: int) -> Iterator[Array]:
        """Yield batches without end, every sample once before any comes again."""
        generator = np.random.default_rng(seed)
        while True:
            order = generator.permutation(self.learning)
            for start in range(0, len(order) - self.batch + 1, self.batch):
                yield order[start : start + self.batch]

    def _both(self, rows: Array) -> tuple[list[Tensor], list[Tensor]]:
        chosen = [int(row) for row in rows]
        answers = self.student.run(to_tensors(feed_of(self.samples, chosen)))
        given = [torch.from_numpy(one) for one in self.teacher.answers(chosen)]
        return answers, given

    def _labels(self, rows: Array) -> Tensor | None:
        return None if self.labels is None else torch.from_numpy(self.labels[rows])


@dataclass(slots=True)
class Learner:
    """The optimizer's state: Adam, with spikes of the gradient cut back."""

    lesson: Lesson
    rate: float
    optimizer: Any = field(init=False)
    usual: float = 0.0

    def __post_init__(self) -> None:
        student = self.lesson.student
        groups = [
            {"params": student.weights(), "share": 1.0},
            {"params": student.logarithms(), "share": SCALES},
        ]
        self.optimizer = torch.optim.Adam(
            [group for group in groups if group["params"]], lr=self.rate
        )

    def step(self, rows: Array, pace: float) -> float:
        """Learn from one batch at a share of the rate, and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.lesson.backward(rows)
        if not np.isfinite(loss):
            return loss
        self._cut()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * pace * group["share"]
        self.optimizer.step()
        self.lesson.student.limit()
        return loss

    def _cut(self) -> None:
        student = self.lesson.student
        all_of_it = [*student.weights(), *student.logarithms()]
        limit = SPIKE * self.usual if self.usual else float("inf")
        size = float(torch.nn.utils.clip_grad_norm_(all_of_it, limit))
        size = min(size, limit)
        self.usual = MEMORY * self.usual + (1 - MEMORY) * size if self.usual else size


def parts(rows: Array, size: int) -> Iterator[Array]:
    """Yield the rows, ``size`` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def pick(marks: Sequence[Mark]) -> int:
    """Return the index of the best mark, of equals the first."""
    best = 0
    for at, mark in enumerate(marks):
        if mark.beats(marks[best]):
            best = at
    return best
