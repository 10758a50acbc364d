"""Make a model ready for quantization, and check that it still says the same.

Runs in a child. Each step is kept only when the result loads and its outputs are equal
to the original's; otherwise the model from before the step goes on, with a note.
"""

from functools import partial

import numpy as np
from onnx import ModelProto, inliner

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.intake import big, fold, opset, single, tidy
from quarterdeck_controller.optimize.intake.batch import batch_of
from quarterdeck_controller.optimize.intake.equal import Outputs, furthest, outputs_of
from quarterdeck_controller.optimize.intake.graph import opset_of
from quarterdeck_controller.optimize.intake.kinds import TARGET_OPSET
from quarterdeck_controller.optimize.intake.norms import fold_norms
from quarterdeck_controller.optimize.intake.sound import check_sound
from quarterdeck_controller.optimize.intake.source import parse, read, unjudged
from quarterdeck_controller.optimize.intake.weights import treatable
from quarterdeck_controller.optimize.intake.work import (
    EQUAL,
    Step,
    Work,
    changing,
    openable,
)
from quarterdeck_controller.optimize.steps import Prepared, PrepareRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

SAMPLES = 4
HALF_EQUAL = 0.02
"""Half precision rounds at every operator; without that, outputs differ by as much."""


def prepare(
    request: PrepareRequest,
    *,
    apart_bytes: int = big.APART_BYTES,
    file_bytes: int = big.ONE_FILE_BYTES,
) -> Prepared:
    """Write the prepared model to ``request.out``, large weights beside it.

    Args:
        request: What to prepare.
        apart_bytes: Weights of more bytes are not held in memory.
        file_bytes: Weights of as many bytes are written to a file of their own.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the float model itself does not run, gives
            NaN, or answers differently every time.
    """
    samples = Stored.open(request.samples)
    work, is_apart = _open(request, samples, apart_bytes)
    _simplify(work)
    if opset_of(work.model) < TARGET_OPSET:
        _convert(work)
    _fold(work, is_apart=is_apart)
    _finish(work)
    batch = batch_of(work, samples)
    nodes = treatable(work.model, request.out.parent)
    if work.draft is not None:
        work.draft.unlink(missing_ok=True)
    big.write(work.model, request.out, is_apart=is_apart, limit=file_bytes)
    return Prepared(batch=batch, nodes=nodes, notes=tuple(work.notes))


def _open(
    request: PrepareRequest, samples: Stored, apart_bytes: int
) -> tuple[Work, bool]:
    model = parse(read(request.model))
    check_sound(model)
    apart = request.out.with_suffix(".data")
    is_apart = big.load(request.model, model, apart, apart_bytes)
    draft = request.out.with_suffix(".draft.onnx") if is_apart else None
    tidy.name_nodes(model)  # the runtime refuses names that are given twice
    tidy.drop_outputs(model, unjudged(model.graph))
    feeds = [samples.sample(row) for row in _spread(samples.count)]
    work = Work(model, feeds, [], draft)
    _find_reference(work)
    return work, is_apart


def _spread(count: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, count - 1, min(SAMPLES, count))})


def _find_reference(work: Work) -> None:
    """Run the model as it came, or as close to it as the runtime takes."""
    refused: RejectedError | None = None
    shapes = _shapes(work)
    attempts: list[tuple[Step, str]] = [
        (lambda model: model, ""),
        (opset.lower_ir, "the runtime does not know its IR version, which was lowered"),
        (
            partial(opset.convert_fixed, shapes=shapes),
            f"the runtime does not run opset {opset_of(work.model)}: converted unseen",
        ),
    ]
    for step, note in attempts:
        copy = ModelProto()
        copy.CopyFrom(work.model)
        try:
            work.model, work.expected = _run_twice(work, step(copy))
        except RejectedError as error:
            refused = refused or error
        except (RuntimeError, opset.ConvertError):
            continue
        else:
            work.notes += [note] if note else []
            return
    assert refused is not None
    told = refused.detail
    for doing in ("open", "run"):
        told = told.replace(f"cannot {doing} the model", "cannot run the float model")
    raise RejectedError(Code.MODEL_INVALID, told) from refused


def _shapes(work: Work) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in work.feeds[0].items()}


def _run_twice(work: Work, model: ModelProto) -> tuple[ModelProto, Outputs]:
    # in one session: a new one begins its random numbers again
    twice = [*work.feeds, work.feeds[0]]
    *found, again = outputs_of(openable(model, work.draft), twice)
    for number, outputs in enumerate(found):
        for name, array in outputs.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise RejectedError(
                    Code.MODEL_INVALID,
                    f"the float model gives NaN for sample {number} of the data in "
                    f"output {name}",
                )
    off = furthest(found[:1], [again])
    if off > EQUAL:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"the float model answers differently every time (by {off:.1e} for the "
            "same sample): nothing can be compared with it",
        )
    return model, found


def _simplify(work: Work) -> None:
    if work.model.functions:
        work.try_step("inlining functions", inliner.inline_local_functions)
    work.try_step("moving constants to initializers", changing(tidy.hoist))
    if single.holds(work.model, single.HALF) and work.try_step(
        "computing in float32",
        partial(single.to_float32, kinds=single.HALF),
        tolerance=HALF_EQUAL,
    ):
        work.notes.append("half precision was widened to float32")
    if single.holds(work.model, single.DOUBLE) and work.try_step(
        "computing in float32", partial(single.to_float32, kinds=single.DOUBLE)
    ):
        work.notes.append("float64 was made float32; outputs are equal")


def _convert(work: Work) -> None:
    before = opset_of(work.model)
    name = f"conversion from opset {before} to {TARGET_OPSET}"
    fixed = partial(opset.convert_fixed, shapes=_shapes(work))
    if work.try_step(name, opset.convert, opset.restamp, fixed):
        work.notes.append(
            f"converted from opset {before} to {TARGET_OPSET}; outputs are equal"
        )
        work.try_step("moving constants to initializers", changing(tidy.hoist))
        work.try_step("simplifying Softmax", opset.plain_softmax)


def _fold(work: Work, *, is_apart: bool) -> None:
    work.try_step("telling tensors apart", changing(tidy.lift))
    work.try_step("folding constants", fold.fold_constants)
    work.try_step("removing what nothing uses", changing(tidy.prune))
    work.try_step("dropping stale shapes", changing(tidy.forget_shapes))
    work.try_step("folding norms", fold_norms)
    if is_apart:
        work.notes.append(
            "the runtime's own fusions were left out: weights are too large to rewrite"
        )
    else:
        work.try_step("the runtime's own fusions", fold.fuse)
    work.try_step("removing what nothing uses", changing(tidy.prune))


def _finish(work: Work) -> None:
    work.try_step("telling tensors apart", changing(tidy.lift))
    work.try_step("inferring shapes", opset.infer_shapes)
    work.try_step("lowering the IR version", opset.lower_ir)
    tidy.name_nodes(work.model)
