"""The course of a training: find a learning rate, then anneal from it, keep the best.

Too high a rate destroys a model, too low a one does nothing, and which is which differs
from model to model: so a few are tried for a short while, each annealed as the course
itself will be, and the one with the least loss on held-out samples is taken. The
learning rate follows a cosine (Loshchilov and Hutter 2016, arXiv 1608.03983).
"""

from dataclasses import dataclass, field
from itertools import islice
from math import cos, inf, isfinite, pi

import torch

from quarterdeck_controller.optimize.steps import Point
from quarterdeck_controller.optimize.train.lesson import Learner, Lesson, Mark
from quarterdeck_shared.clock import Clock

RATES = (0.005, 0.02, 0.06, 0.2)
"""In quantization steps that a weight moves at most in one step of training."""
TRIAL = 40
TRIAL_SHARE = 0.3
"""Of the time that finding a rate may take."""
EXAMINATIONS = 16
WARM = 0.05
"""Share of the course in which the rate rises."""
LATE = 1.1
"""So much behind its plan, a course becomes shorter rather than be cut off."""

NOTHING = Mark(agreement=-1.0, loss=inf)
"""Worse than any."""


@dataclass(slots=True)
class Course:
    """A training from start to end.

    Attributes:
        seconds: It may take; less than this only when ``steps`` are done before.
        best: What did best on held-out samples.
        hurried: Whether time cut it short: then it will not be the same again.
    """

    lesson: Lesson
    clock: Clock
    seconds: float
    steps: int
    seed: int
    curve: list[Point] = field(default_factory=list)
    rate: float = 0.0
    done: int = 0
    hurried: bool = False
    best: list[torch.Tensor] = field(default_factory=list)
    best_mark: Mark = NOTHING
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock.monotonic()

    def take(self) -> None:
        """Train."""
        start = self.best = self.lesson.student.snapshot()
        self._examine(0)
        self.rate = self._find_rate(start)
        self._anneal(start)

    def _elapsed(self) -> float:
        return self.clock.monotonic() - self.started

    def _find_rate(self, start: list[torch.Tensor]) -> float:
        length = max(4, min(TRIAL, self.steps // 20))
        losses: list[float] = []
        for rate in RATES:
            if self._elapsed() > self.seconds * TRIAL_SHARE and losses:
                self.hurried = True
                break
            losses.append(self._try(rate, length))
            self.lesson.student.restore(start)
        best = min(range(len(losses)), key=lambda at: losses[at])
        return RATES[best]

    def _try(self, rate: float, length: int) -> float:
        learner = Learner(self.lesson, rate)
        for at, rows in enumerate(islice(self.lesson.draws(self.seed), length)):
            if not isfinite(learner.step(rows, pace(at, length))):
                return float("inf")
            if self._elapsed() > self.seconds:
                self.hurried = True
                break
        loss = self.lesson.examine().loss
        return loss if isfinite(loss) else float("inf")

    def _anneal(self, start: list[torch.Tensor]) -> None:
        self.lesson.student.restore(start)
        learner, planned = Learner(self.lesson, self.rate), self.steps
        begun, every = self._elapsed(), max(1, self.steps // EXAMINATIONS)
        draws = self.lesson.draws(self.seed + 1)
        while self.done < planned and self._elapsed() < self.seconds:
            loss = learner.step(next(draws), pace(self.done, planned))
            self.done += 1
            if not isfinite(loss):
                break
            planned = self._replan(planned, begun)
            if self.done % every == 0 or self.done == planned:
                self._examine(self.done)
        if self.done < planned:
            self.hurried = True
            self._examine(self.done)

    def _replan(self, planned: int, begun: float) -> int:
        """Return how many steps there is time for, where it is not for all."""
        left = self.seconds - begun
        needed = (self._elapsed() - begun) / self.done * planned
        if self.done < WARM_UP or needed <= left * LATE or self.done % REPLAN:
            return planned
        self.hurried = True
        return max(self.done + 1, int(planned * left / needed))

    def _examine(self, step: int) -> None:
        mark = self.lesson.examine()
        if not isfinite(mark.loss):
            return
        if mark.beats(self.best_mark):
            self.best, self.best_mark = self.lesson.student.snapshot(), mark
        self.curve.append(Point(step=step, loss=mark.loss, agreement=mark.agreement))


WARM_UP = 8
"""Steps after which a course knows its own pace."""
REPLAN = 8
"""Steps between two looks at the clock."""


def pace(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: up fast, down slowly."""
    done = (step + 0.5) / steps
    if done < WARM:
        return done / WARM
    return 0.5 * (1 + cos(pi * (done - WARM) / (1 - WARM)))
