"""Models that nobody tuned anything for: prepared and the same, or refused."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import given, settings

from quarterdeck_controller.optimize.data.stored import Stored, Writer
from quarterdeck_controller.optimize.intake.equal import furthest, outputs_of
from quarterdeck_controller.optimize.intake.graph import graphs, opset_of, walk
from quarterdeck_controller.optimize.intake.prepare import prepare
from quarterdeck_controller.optimize.intake.source import inspect
from quarterdeck_controller.optimize.steps import InspectRequest, PrepareRequest
from tests.support.random_graphs import ATTEMPTS, cases, random_case
from tests.support.random_layers import Samples

CASES = 60
SLACK = 1 << 16


@settings(max_examples=CASES, deadline=None, derandomize=True)
@given(cases())
def test_any_valid_model_is_prepared_and_says_the_same(
    case: tuple[onnx.ModelProto, Samples],
) -> None:
    model, samples = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "model.onnx")
        with Writer(folder / "samples") as writer:
            writer.add(samples)
        request = PrepareRequest(
            model=folder / "model.onnx",
            out=folder / "prepared.onnx",
            samples=folder / "samples",
        )

        source = inspect(InspectRequest(model=request.model))
        answer = prepare(request)

        made = onnx.load(request.out)
        stored = Stored.open(request.samples)
        feeds = [stored.sample(row) for row in range(stored.count)]
        before, after = (outputs_of(p, feeds) for p in (request.model, request.out))
        size = request.out.stat().st_size
    onnx.checker.check_model(made, full_check=True)
    names = [node.name for node in walk(made.graph)]
    values = [value for node in walk(made.graph) for value in node.output if value]
    values += [t.name for graph in graphs(made.graph) for t in graph.initializer]
    assert furthest(before, after) < 1e-3
    assert opset_of(made) >= 17
    assert all(names)
    assert len(set(names)) == len(names)
    assert len(set(values)) == len(values)
    assert {node.name for node in answer.nodes} <= set(names)
    assert [value.name for value in made.graph.input] == [t.name for t in source.inputs]
    assert size < source.bytes * 1.5 + SLACK


@settings(max_examples=10, deadline=None, derandomize=True)
@given(cases())
def test_samples_that_run_together_give_what_they_give_alone(
    case: tuple[onnx.ModelProto, Samples],
) -> None:
    model, samples = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "model.onnx")
        with Writer(folder / "samples") as writer:
            writer.add(samples)
        out = folder / "prepared.onnx"
        answer = prepare(
            PrepareRequest(
                model=folder / "model.onnx", out=out, samples=folder / "samples"
            )
        )
        stored = Stored.open(folder / "samples")
        alone = outputs_of(out, list(stored.batches(1)))
        together = outputs_of(out, list(stored.batches(answer.batch)))

    for output in alone[0]:
        one, other = (
            np.concatenate([found[output] for found in run])
            for run in (alone, together)
        )
        assert furthest([{output: one}], [{output: other}]) < 1e-3


def test_a_number_always_names_the_same_model() -> None:
    first, second = random_case(7), random_case(7)

    assert first[0].SerializeToString() == second[0].SerializeToString()
    assert all(np.array_equal(first[1][k], second[1][k]) for k in first[1])
    assert ATTEMPTS > 1
