"""The whole of a training: what is compared, split, learned, judged and written."""

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.steps import Trained, TrainRequest
from quarterdeck_controller.optimize.train.course import Course
from quarterdeck_controller.optimize.train.exactness import check_exactness, to_tensors
from quarterdeck_controller.optimize.train.judge import judge
from quarterdeck_controller.optimize.train.lesson import Lesson
from quarterdeck_controller.optimize.train.parts import Parts, find_parts
from quarterdeck_controller.optimize.train.sharing import own_scales
from quarterdeck_controller.optimize.train.student import Student, make_student
from quarterdeck_controller.optimize.train.target import find_targets
from quarterdeck_controller.optimize.train.teacher import open_teacher
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Array = NDArray[Any]

HELD_SHARE = 0.15
MAX_HELD = 256
MIN_SAMPLES = 8
MAX_BATCH = 64
MIN_BATCH = 8
ELEMENTS = 1 << 24
"""Activations that are kept at once for the way back: 64 MB, and their gradients."""
CHECKED = 4
"""Samples on which PyTorch is compared with the runtime."""


def teach(request: TrainRequest, clock: Clock) -> Trained:
    """Train, judge and write; see ``train``."""
    begun = clock.monotonic()
    _settle(request.seed)
    model = onnx.load(request.model)
    own = own_scales(model)
    reference = onnx.load(request.reference)
    targets = find_targets(reference.graph, own.graph, request.output)
    found = find_parts(own)
    _expect_parts(found)
    samples = Stored.open(request.samples)
    learning, held = split(len(samples), request.seed)
    student = make_student(own, found, reference.graph, [t.student for t in targets])
    checked = [samples.sample(int(row)) for row in held[:CHECKED]]
    error = check_exactness(own, [t.student for t in targets], checked)
    teacher = open_teacher(request.reference, [t.teacher for t in targets], samples)
    at_once, batch = _batches(request, student, samples, len(learning))
    labels = _labels(request, len(samples))
    lesson = Lesson(
        student, teacher, targets, samples, learning, held, labels, batch, at_once
    )
    left = request.seconds - (clock.monotonic() - begun)
    course = Course(lesson, clock, left, request.steps, request.seed)
    course.take()
    verdict = judge(lesson, model, course.best)
    request.out.write_bytes(verdict.data)
    return Trained(
        improved=verdict.improved,
        curve=tuple(course.curve),
        steps=course.done,
        left_out=found.left_out,
        notes=(
            f"PyTorch and onnxruntime differ by {error:.1e} without rounding",
            *_told(course, lesson),
            *verdict.notes,
        ),
    )


def _settle(seed: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True)


def _expect_parts(found: Parts) -> None:
    if not found.weights and not found.activations:
        why = "; ".join(found.left_out[:3]) or "nothing of it is quantized"
        raise RejectedError(
            Code.MODEL_INVALID,
            f"there is nothing to train in this variant: {why}; only what is written "
            "with QuantizeLinear and DequantizeLinear, or with Cast and Mul, learns",
        )


def split(count: int, seed: int) -> tuple[Array, Array]:
    """Return which samples are learned from, and which are held out.

    Raises:
        RejectedError: ``DATA_INVALID`` when there are too few.
    """
    if count < MIN_SAMPLES:
        raise RejectedError(
            Code.DATA_INVALID,
            f"training needs at least {MIN_SAMPLES} calibration samples, "
            f"there are {count}",
        )
    order = np.random.default_rng(seed).permutation(count)
    held = min(MAX_HELD, max(1, round(HELD_SHARE * count)))
    return np.sort(order[held:]), np.sort(order[:held])


def _batches(
    request: TrainRequest, student: Student, samples: Stored, learning: int
) -> tuple[int, int]:
    """Return how many samples are run at once, and how many make a step."""
    with torch.no_grad():
        feed = to_tensors(samples.sample(0))
        each = student.program.elements({**feed, **student.values()})
    fitting = max(1, ELEMENTS // max(1, each))
    batch = min(learning, MAX_BATCH, max(MIN_BATCH, fitting))
    at_once = min(batch, fitting, request.batch if samples.uniform else 1)
    return at_once, batch


def _labels(request: TrainRequest, count: int) -> Array | None:
    if request.labels is None:
        return None
    labels = np.load(request.labels, allow_pickle=False)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise RejectedError(
            Code.DATA_INVALID,
            f"training learns from one class number for each of {count} samples, "
            f"the labels are {labels.dtype} of shape {list(labels.shape)}",
        )
    return np.asarray(labels, np.int64)


def _told(course: Course, lesson: Lesson) -> list[str]:
    first = (
        f"{len(lesson.learning)} samples learned from, {len(lesson.held)} held out, "
        f"{lesson.batch} a step, {course.done} steps at a rate of {course.rate:g}"
    )
    told = [first]
    if course.hurried:
        told.append(
            "time was short, so another run may differ; the same number of steps with "
            "time to spare gives the same bytes"
        )
    return told
