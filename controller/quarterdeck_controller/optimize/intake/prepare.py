"""Make a model ready for quantization, and check that it still says the same.

Runs in a child. Each step is kept only when the result loads and its outputs are equal
to the original's; otherwise the model from before the step goes on, with a note.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, inliner

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.intake import fold, opset, tidy
from quarterdeck_controller.optimize.intake.equal import Outputs, furthest, outputs_of
from quarterdeck_controller.optimize.intake.graph import CONTROL, opset_of, walk
from quarterdeck_controller.optimize.intake.source import parse
from quarterdeck_controller.optimize.intake.weights import treatable
from quarterdeck_controller.optimize.session import Feed
from quarterdeck_controller.optimize.steps import Prepared, PrepareRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

SAMPLES = 4
EQUAL = 1e-3
"""Largest relative error of a step that may only reorder additions."""
BATCH = 64
BATCH_BYTES = 16 << 20
"""Inputs of samples that are run together take no more, for the activations' sake."""

Step = Callable[[ModelProto], ModelProto]


@dataclass(slots=True)
class _Work:
    """The model as far as it got, and what it must keep saying."""

    model: ModelProto
    feeds: list[Feed]
    expected: Outputs
    notes: list[str] = field(default_factory=list)

    def try_step(self, name: str, step: Step) -> bool:
        """Keep what ``step`` makes when it still says the same."""
        copy = ModelProto()
        copy.CopyFrom(self.model)
        try:
            changed = step(copy)
            got = outputs_of(changed.SerializeToString(), self.feeds)
        except Exception as error:  # noqa: BLE001 - converters raise anything
            told = " ".join(str(error).split())[:160]
            self.notes.append(f"{name} was left out: {told}")
            return False
        worst = furthest(self.expected, got)
        if worst > EQUAL:
            self.notes.append(f"{name} was left out: it changed outputs by {worst:.1e}")
            return False
        self.model = changed
        return True


def prepare(request: PrepareRequest) -> Prepared:
    """Write the prepared model to ``request.out``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the float model itself does not run, or
            gives NaN.
    """
    logging.getLogger().setLevel(logging.ERROR)
    model = parse(request.model.read_bytes())
    samples = Stored.open(request.samples)
    feeds = [samples.sample(row) for row in _spread(samples.count)]
    work = _Work(model, feeds, _reference(model, feeds))
    if model.functions:
        work.try_step("inlining functions", inliner.inline_local_functions)
    work.try_step("moving constants to initializers", _changed(tidy.hoist))
    if opset_of(work.model) < opset.TARGET:
        _convert(work)
    work.try_step("moving constants to initializers", _changed(tidy.hoist))
    work.try_step("folding constants", fold.fold_constants)
    work.try_step("removing what nothing uses", _changed(tidy.prune))
    work.try_step("dropping stale shapes", _changed(tidy.forget_shapes))
    work.try_step("folding norms", fold.fuse)
    work.try_step("removing what nothing uses", _changed(tidy.prune))
    work.try_step("telling tensors apart", _changed(tidy.name_values))
    work.try_step("inferring shapes", opset.infer_shapes)
    tidy.name_nodes(work.model)
    onnx.save(work.model, request.out)
    return Prepared(
        batch=_batch(work, samples),
        nodes=treatable(work.model, Path()),
        notes=tuple(work.notes),
    )


def _spread(count: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, count - 1, min(SAMPLES, count))})


def _changed(change: Callable[[ModelProto], None]) -> Step:
    def step(model: ModelProto) -> ModelProto:
        change(model)
        return model

    return step


def _reference(model: ModelProto, feeds: list[Feed]) -> Outputs:
    try:
        found = outputs_of(model.SerializeToString(), feeds)
    except RejectedError as error:
        told = error.detail.replace("the model", "the float model", 1)
        raise RejectedError(Code.MODEL_INVALID, told) from error
    for number, outputs in enumerate(found):
        for array in outputs.values():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise RejectedError(
                    Code.MODEL_INVALID,
                    f"the float model gives NaN for sample {number} of the data",
                )
    return found


def _convert(work: _Work) -> None:
    before = opset_of(work.model)
    name = f"conversion from opset {before} to {opset.TARGET}"
    steps = [opset.convert, opset.restamp]
    for step in reversed(steps) if opset.has_subgraphs(work.model) else steps:
        if work.try_step(name, step):
            work.notes.append(
                f"converted from opset {before} to {opset.TARGET}; outputs are equal"
            )
            return


def _batch(work: _Work, samples: Stored) -> int:
    """Return how many samples may be run at once with the same outputs."""
    count = len(work.feeds)
    if count == 1 or not samples.uniform or samples.whole:
        return 1
    if any(node.op_type in CONTROL for node in walk(work.model.graph)):
        return 1
    together = {
        name: np.concatenate([feed[name] for feed in work.feeds])
        for name in work.feeds[0]
    }
    try:
        got = outputs_of(work.model.SerializeToString(), [together])[0]
    except RejectedError:
        return 1
    if not _is_same(work.expected, got):
        return 1
    size = sum(array.nbytes for array in work.feeds[0].values())
    return max(1, min(BATCH, BATCH_BYTES // max(size, 1)))


def _is_same(expected: Outputs, together: Feed) -> bool:
    for name, array in together.items():
        singles = [outputs[name] for outputs in expected]
        if any(one.ndim == 0 or len(one) != 1 for one in singles):
            return False
        if array.ndim == 0 or len(array) != len(singles):
            return False
        if len({one.shape for one in singles}) > 1:
            return False
        if furthest([{name: np.concatenate(singles)}], [{name: array}]) > EQUAL:
            return False
    return True
