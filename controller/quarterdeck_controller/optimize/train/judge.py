"""The last word: the trained graph against its start, in the real runtime."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor

from quarterdeck_controller.optimize.session import infer, open_with, options_of
from quarterdeck_controller.optimize.train.lesson import Lesson, Mark, parts
from quarterdeck_controller.optimize.train.loss import agreement, distance
from quarterdeck_controller.optimize.train.teacher import feed_of, giving
from quarterdeck_controller.optimize.train.writeback import write_back
from quarterdeck_shared.session import Session


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be written, and what led to it, as sentences."""

    data: bytes
    improved: bool
    notes: tuple[str, ...]


def judge(lesson: Lesson, start: onnx.ModelProto, best: Sequence[Tensor]) -> Verdict:
    """Return the trained graph if it is better and runs on the same kernels.

    Args:
        lesson: Whose held samples decide.
        start: What the training started from; it is what is written otherwise.
        best: The snapshot that did best in PyTorch.
    """
    lesson.student.restore(best)
    trained = write_back(lesson.student)
    before, after = _examine(lesson, start), _examine(lesson, trained)
    told = (
        f"in the runtime, agreement on {len(lesson.held)} held-out samples went from "
        f"{before.agreement:.4f} to {after.agreement:.4f} and the distance from float "
        f"from {before.loss:.5f} to {after.loss:.5f}"
    )
    better = after.agreement >= before.agreement and after.loss < before.loss
    if better and _kernels(start) != _kernels(trained):
        told += "; it is not taken, for other kernels would run"
        better = False
    chosen = trained if better else start
    return Verdict(chosen.SerializeToString(deterministic=True), better, (told,))


def _examine(lesson: Lesson, model: onnx.ModelProto) -> Mark:
    targets = lesson.targets
    names = [target.student for target in targets]
    data = giving(model, names).SerializeToString()
    session = open_with(data, options_of(Session()))
    agreed = lost = 0.0
    for rows in parts(lesson.held, lesson.at_once):
        chosen = [int(row) for row in rows]
        found = infer(session, names, feed_of(lesson.samples, chosen))
        answers = [torch.from_numpy(one) for one in found]
        given = [torch.from_numpy(one) for one in lesson.teacher.answers(chosen)]
        lost += float(distance(targets, answers, given)) * len(rows)
        agreed += agreement(targets[0], answers[0], given[0]) * len(rows)
    return Mark(agreed / len(lesson.held), lost / len(lesson.held))


def _kernels(model: onnx.ModelProto) -> Counter[str]:
    """Return how often each operator runs after the runtime's own optimization."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = options_of(Session())
        options.optimized_model_filepath = str(path)
        open_with(model.SerializeToString(), options)
        optimized = onnx.load(path, load_external_data=False)
    return Counter(node.op_type for node in optimized.graph.node)
