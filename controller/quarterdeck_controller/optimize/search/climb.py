"""Climb the ladder for one class: ask what is next, do it, write down why."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.search.candidate import Candidate
from quarterdeck_controller.optimize.search.choose import best
from quarterdeck_controller.optimize.search.ladder import next_move
from quarterdeck_controller.optimize.search.state import Facts, Move, Skip
from quarterdeck_controller.optimize.search.story import Said
from quarterdeck_controller.optimize.search.trial import Trials
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import RejectedError

MOST_MOVES = 40
"""No ladder is that long; a search that is still climbing then has a bug."""


@dataclass(slots=True)
class Climb:
    """One class's search.

    Attributes:
        ends: When the time budget is spent, on the clock's monotonic seconds.
        tell: Told what is done, for people who watch.
        candidates: What was tried so far.
        said: What was done and left out, and why.
    """

    trials: Trials
    facts: Facts
    clock: Clock
    ends: float
    tell: Callable[[str, str], None]
    candidates: list[Candidate] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    @property
    def profile(self) -> Profile:
        """The class's profile."""
        return self.trials.profile

    def run(self) -> None:
        """Try what the ladder wants until it wants no more or the time is spent."""
        skipped: tuple[Skip, ...] = ()
        for _ in range(MOST_MOVES):
            move, skipped = next_move(self.candidates, self.facts, self.profile)
            if move is None:
                break
            if self.candidates and self.clock.monotonic() >= self.ends:
                self._say(move.rung, f"left out, the time is spent: {move.why}", 0.0)
                return
            self.make(move)
        for skip in skipped:
            self._say(skip.rung, f"ended: {skip.why}", 0.0)

    def make(self, move: Move) -> None:
        """Do what a move says, and write down why."""
        before = self.clock.monotonic()
        self.tell(move.rung, move.why)
        if move.sense is not None:
            self._sense(move)
        with ThreadPoolExecutor(max(1, len(move.recipes))) as pool:
            attempts = [
                pool.submit(self.trials.attempt, recipe, move.rung, move.why)
                for recipe in move.recipes
            ]
            self.candidates += [attempt.result() for attempt in attempts]
        self._say(move.rung, move.why, self.clock.monotonic() - before)
        self._tell_best()

    def _tell_best(self) -> None:
        taken = best(self.candidates, self.profile)
        if taken is not None and taken.figures is not None:
            figures = taken.figures
            self.tell(
                "best",
                f"{taken.recipe.name} {figures.size_ratio:.2f} of the size, "
                f"{figures.latency_ratio:.2f} of the time",
            )

    def _sense(self, move: Move) -> None:
        assert move.sense is not None, "asked only when there is something to sense"
        try:
            found = self.trials.sense(move.sense).nodes
        except RejectedError as error:
            self._say(move.rung, f"could not be found: {error.detail}", 0.0)
            found = ()
        if move.sense.kind == "static":
            self.facts = replace(self.facts, sensed=found)
        else:
            self.facts = replace(self.facts, floor_sensed=found)

    def _say(self, rung: str, sentence: str, seconds: float) -> None:
        self.said.append(
            Said.model_validate(
                {"rung": rung, "sentence": sentence, "seconds": round(seconds, 3)}
            )
        )
