"""Change a model step by step, keeping only what leaves its answers as they were."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import ModelProto

from quarterdeck_controller.optimize.intake.equal import Outputs, furthest, outputs_of
from quarterdeck_controller.optimize.session import Feed

EQUAL = 1e-3
"""Largest relative error of a step that may only reorder additions."""
MAX_TOLD = 160

Step = Callable[[ModelProto], ModelProto]


@dataclass(slots=True)
class Work:
    """The model as far as it got, and what it must keep saying.

    Attributes:
        draft: Where a model is written to be opened, when its weights are in a file
            of that folder; None is a model that holds its weights.
    """

    model: ModelProto
    feeds: Sequence[Feed]
    expected: Outputs
    draft: Path | None = None
    notes: list[str] = field(default_factory=list)

    def run(self, model: ModelProto, feeds: Sequence[Feed] | None = None) -> Outputs:
        """Return what ``model`` gives.

        Raises:
            RejectedError: ``MODEL_INVALID`` when the runtime cannot open or run it.
        """
        chosen = self.feeds if feeds is None else feeds
        return outputs_of(openable(model, self.draft), chosen)

    def try_step(self, name: str, *steps: Step, tolerance: float = EQUAL) -> bool:
        """Keep what the first of ``steps`` makes that still says the same.

        When none does, a note says why the last did not.
        """
        why = ""
        for step in steps:
            why = self._try(step, tolerance)
            if not why:
                return True
        self.notes.append(f"{name} was left out: {why}")
        return False

    def _try(self, step: Step, tolerance: float) -> str:
        copy = ModelProto()
        copy.CopyFrom(self.model)
        try:
            changed = step(copy)
            got = self.run(changed)
        except Exception as error:  # noqa: BLE001 - converters raise anything
            return " ".join(str(error).split())[:MAX_TOLD] or type(error).__name__
        worst = furthest(self.expected, got)
        if worst > tolerance:
            return f"it changed outputs by {worst:.1e}"
        self.model = changed
        if tolerance > EQUAL:
            self.expected = got
        return ""


def openable(model: ModelProto, draft: Path | None) -> Path | bytes:
    """Return what a session is opened from."""
    if draft is None:
        return bytes(model.SerializeToString())
    onnx.save(model, draft)
    return draft


def changing(change: Callable[[ModelProto], None]) -> Step:
    """Return a step that changes the model in place."""

    def step(model: ModelProto) -> ModelProto:
        change(model)
        return model

    return step
