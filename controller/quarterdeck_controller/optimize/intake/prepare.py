"""Make a model ready for quantization, and check that it still says the same.

Runs in a child. Each step is kept only when the result loads and its outputs are equal
to the original's; otherwise the model from before the step goes on, with a note.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, inliner, version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

from quarterdeck_controller.optimize.intake.source import OLD_OPSET, opset_of, parse
from quarterdeck_controller.optimize.metric.score import sample_errors
from quarterdeck_controller.optimize.session import (
    Array,
    Feed,
    batches,
    open_samples,
    open_session,
    rows,
    scores,
)
from quarterdeck_controller.optimize.steps import Prepared, PrepareRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

NEW_OPSET = 17
SAMPLES = 4
EQUAL = 1e-3
"""Largest relative error of a step that may only reorder additions."""
BATCH = 64

Step = Callable[[onnx.ModelProto], onnx.ModelProto]


@dataclass(slots=True)
class _Work:
    """The model as far as it got, and what it must keep saying."""

    model: onnx.ModelProto
    feeds: list[Feed]
    expected: list[list[Array]]
    notes: list[str] = field(default_factory=list)

    def try_step(self, name: str, step: Step) -> None:
        """Keep what ``step`` makes when it still says the same."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        try:
            changed = step(copy)
            worst = _worst(self.expected, _run(changed, self.feeds))
        except Exception as error:  # noqa: BLE001 - converters raise anything
            self.notes.append(f"{name} was left out: {str(error).strip()[:160]}")
            return
        if worst > EQUAL:
            self.notes.append(f"{name} was left out: it changed outputs by {worst:.1e}")
            return
        self.model = changed


def prepare(request: PrepareRequest) -> Prepared:
    """Write the prepared model to ``request.out``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the float model itself does not run, or
            gives NaN.
    """
    logging.getLogger().setLevel(logging.ERROR)
    model = parse(request.model.read_bytes())
    samples = open_samples(request.samples, request.inputs)
    some = range(min(SAMPLES, len(next(iter(samples.values())))))
    feeds = list(rows(samples, some))
    work = _Work(model, feeds, _reference(model, feeds))
    if model.functions:
        work.try_step("inlining functions", inliner.inline_local_functions)
    work.try_step("moving constants to initializers", _hoist)
    if opset_of(work.model) < OLD_OPSET:
        _convert(work)
    work.try_step("folding constants and norms", _fold)
    onnx.save(work.model, request.out)
    batch = _batch(work.model, samples, work.expected)
    return Prepared(batch=batch, notes=tuple(work.notes))


def _reference(model: onnx.ModelProto, feeds: list[Feed]) -> list[list[Array]]:
    try:
        found = _run(model, feeds)
    except Exception as error:
        told = str(error).strip().splitlines()[0][:200]
        raise RejectedError(
            Code.MODEL_INVALID, f"onnxruntime cannot run the float model: {told}"
        ) from error
    for number, outputs in enumerate(found):
        for array in outputs:
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise RejectedError(
                    Code.MODEL_INVALID,
                    f"the float model gives NaN for sample {number} of the data",
                )
    return found


def _run(model: onnx.ModelProto, feeds: list[Feed]) -> list[list[Array]]:
    session = open_session(model.SerializeToString())
    return [[np.asarray(value) for value in session.run(None, feed)] for feed in feeds]


def _worst(expected: list[list[Array]], got: list[list[Array]]) -> float:
    worst = 0.0
    for wanted, found in zip(expected, got, strict=True):
        for one, other in zip(wanted, found, strict=True):
            if one.shape != other.shape or one.dtype != other.dtype:
                return float("inf")
            if one.dtype.kind == "f" and one.size:
                error = sample_errors(one.reshape(1, -1), other.reshape(1, -1))
                worst = max(worst, float(error[0]))
            elif not np.array_equal(one, other):
                return float("inf")
    return worst


def _hoist(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make Constant nodes initializers, and initializers no longer inputs."""
    graph = model.graph
    kept = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if (
            node.op_type == "Constant"
            and value is not None
            and not _is_output(graph, node)
        ):
            tensor = TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    names = {tensor.name for tensor in graph.initializer}
    real = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(real)
    model.ir_version = max(model.ir_version, 8)
    return model


def _is_output(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    return node.output[0] in {value.name for value in graph.output}


def _convert(work: _Work) -> None:
    before = opset_of(work.model)
    work.try_step(
        f"conversion from opset {before} to {NEW_OPSET}",
        lambda model: version_converter.convert_version(model, NEW_OPSET),
    )
    if opset_of(work.model) == NEW_OPSET:
        work.notes.append(
            f"converted from opset {before} to {NEW_OPSET}; outputs are equal"
        )


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and batch norms and infer shapes, as the runtime does."""
    with tempfile.TemporaryDirectory() as folder:
        before, out = Path(folder) / "model.onnx", Path(folder) / "folded.onnx"
        onnx.save(model, before)  # given a model, it loses weights to a file of its own
        # symbolic shape inference needs sympy and gains nothing on fixed samples
        quant_pre_process(before, out, skip_symbolic_shape=True)
        return onnx.load(out)


def _batch(model: onnx.ModelProto, samples: Feed, expected: list[list[Array]]) -> int:
    """Return how many samples may be run at once with the same outputs."""
    if len(expected) == 1:
        return 1
    session = open_session(model.SerializeToString())
    names = [value.name for value in model.graph.output]
    try:
        feed = next(batches(samples, len(expected)))
        together = [scores(session, name, iter([feed])) for name in names]
    except (ort.capi.onnxruntime_pybind11_state.RuntimeException, *_REFUSALS):
        return 1
    return BATCH if _is_same(expected, together) else 1


def _is_same(expected: Sequence[Sequence[Array]], together: Sequence[Array]) -> bool:
    for number, array in enumerate(together):
        singles = [outputs[number] for outputs in expected]
        if any(one.ndim == 0 or len(one) != 1 for one in singles):
            return False
        if array.ndim == 0 or len(array) != len(singles):
            return False
        if _worst([[np.concatenate(singles)]], [[array]]) > EQUAL:
            return False
    return True


_REFUSALS = (
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.Fail,
    ValueError,
)
