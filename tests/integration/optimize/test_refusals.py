"""Models that people bring: each is coped with or refused in a sentence."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.data.samples import Array, Data, Samples
from quarterdeck_controller.optimize.optimizer import Optimization, Options, optimize
from quarterdeck_controller.optimize.profile import load_profile
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.small_model import (
    lenient_profile,
    make_data,
    make_model,
    make_samples,
    trained,
)

RNG = np.random.default_rng(0)
QUICK = Options(kinds=("static", "dynamic"), time_budget_s=2)
Model = onnx.ModelProto


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def build(
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto] = (),
    *,
    shape: Sequence[int | str] = ("n", 8),
    dtype: int = TensorProto.FLOAT,
    gives: int = TensorProto.FLOAT,
    opset: int = 17,
    domain: str = "",
) -> Model:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", gives, None)],
        list(constants),
    )
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    return model


def run(
    model: Model | bytes,
    inputs: dict[str, Array],
    folder: Path,
    options: Options = QUICK,
) -> Optimization:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    samples = Samples(inputs)
    profile = load_profile(str(lenient_profile("gateway-x86-vnni", folder)))
    return optimize(path, Data(samples, samples), profile, options=options)


def features(count: int = 40, *shape: int) -> dict[str, Array]:
    return {"x": RNG.standard_normal((count, *(shape or (8,)))).astype(np.float32)}


def quantized() -> Model:
    one = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.uint8), "z")
    return build(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [one, zero],
    )


REFUSED: dict[str, tuple[Callable[[], Model | bytes], str]] = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"this is no model\n" * 20, "not an ONNX model"),
    "truncated": (lambda: trained().SerializeToString()[:5000], "not an ONNX model"),
    "no graph": (lambda: Model(ir_version=8).SerializeToString(), "holds no graph"),
    "quantized": (quantized, "already quantized (1 "),
    "custom domain": (
        lambda: build(
            [helper.make_node("Magic", ["x"], ["y"], domain="acme")], domain="acme"
        ),
        "acme.Magic",
    ),
    "unknown operator": (
        lambda: build([helper.make_node("Sparkle", ["x"], ["y"])]),
        "no operator Sparkle",
    ),
    "fixed batch": (
        lambda: build([helper.make_node("Relu", ["x"], ["y"])], shape=(4, 8)),
        "fixed batch of 4",
    ),
    "strings": (
        lambda: build(
            [helper.make_node("Identity", ["x"], ["y"])],
            dtype=TensorProto.STRING,
            gives=TensorProto.STRING,
        ),
        "strings",
    ),
    "no float output": (
        lambda: build(
            [helper.make_node("ArgMax", ["x"], ["y"], axis=1)], gives=TensorProto.INT64
        ),
        "export the scores, not their arg-max",
    ),
    "does not run": (
        lambda: build(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 5, 4)]
        ),
        "onnxruntime cannot run the float model",
    ),
    "NaN": (
        lambda: build([helper.make_node("Sqrt", ["x"], ["y"])]),
        "gives NaN for sample",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_cannot_be_optimized_is_refused_with_the_reason(
    kind: str, tmp_path: Path
) -> None:
    make, told = REFUSED[kind]

    with pytest.raises(RejectedError) as refused:
        run(make(), features(), tmp_path)

    assert refused.value.code is Code.MODEL_INVALID
    assert told in refused.value.detail


def recurrent() -> Model:
    return build(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["t", "w", "r"], ["", "h"], hidden_size=16),
            helper.make_node("Squeeze", ["h", "axis"], ["s"]),
            helper.make_node("Gemm", ["s", "out"], ["y"]),
        ],
        [
            weight("w", 1, 64, 4),
            weight("r", 1, 64, 16),
            weight("out", 16, 5),
            numpy_helper.from_array(np.array([0]), "axis"),
        ],
        shape=("n", 10, 4),
    )


def branching() -> Model:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node(operator, ["h"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )

    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceMax", ["h"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "zero"], ["c"]),
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                then_branch=branch("a", "Relu"),
                else_branch=branch("b", "Tanh"),
            ),
        ],
        [weight("w", 8, 64), numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )


def fixed_to_one() -> Model:
    return build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [weight("w", 8, 64)],
        shape=(1, 8),
    )


def mixes_its_batch() -> Model:
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceMean", ["h"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Add", ["h", "m"], ["y"]),
        ],
        [weight("w", 8, 64)],
    )


def masked() -> Model:
    mask = np.zeros((1, 64), np.float32)
    mask[0, 32:] = -3.4e38
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "mask"], ["a"]),
            helper.make_node("Softmax", ["a"], ["s"], axis=1),
            helper.make_node("MatMul", ["s", "v"], ["y"]),
        ],
        [weight("w", 8, 64), weight("v", 64, 6), numpy_helper.from_array(mask, "mask")],
    )


def constants_in_nodes() -> Model:
    constant = helper.make_node("Constant", [], ["w"], value=weight("", 8, 64))
    return build([constant, helper.make_node("MatMul", ["x", "w"], ["y"])])


def initializer_is_input() -> Model:
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 8, 64)])
    model.graph.input.append(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 64])
    )
    return model


def single_score() -> Model:
    return build([helper.make_node("Gemm", ["x", "w"], ["y"])], [weight("w", 8, 1)])


COPED: dict[str, tuple[Callable[[], Model], tuple[int, ...]]] = {
    "LSTM": (recurrent, (10, 4)),
    "If": (branching, (8,)),
    "batch of one": (fixed_to_one, (8,)),
    "mixes its batch": (mixes_its_batch, (8,)),
    "mask": (masked, (8,)),
    "constants in nodes": (constants_in_nodes, (8,)),
    "initializer is an input": (initializer_is_input, (8,)),
    "single score": (single_score, (8,)),
    "nothing to quantize": (
        lambda: build([helper.make_node("Softmax", ["x"], ["y"])]),
        (8,),
    ),
}


@pytest.mark.parametrize("kind", COPED)
def test_an_odd_model_gets_a_variant_or_a_refusal_never_a_crash(
    kind: str, tmp_path: Path
) -> None:
    make, shape = COPED[kind]

    result = run(make(), features(24, *shape), tmp_path)

    evaluation = result.evaluation
    assert evaluation.reason
    taken = [one for one in result.story.tried if one.recipe == evaluation.recipe]
    if result.accepted:
        assert not taken[0].misses
        assert result.model is not None


def test_a_recipe_that_finds_nothing_to_do_says_so(tmp_path: Path) -> None:
    model = build([helper.make_node("Softmax", ["x"], ["y"])])

    result = run(model, features(), tmp_path)

    assert result.model is None
    assert result.evaluation.decision == "refused"
    assert result.evaluation.reason.startswith("no recipe gave a model that runs")


def test_integer_inputs_and_several_of_them_are_fed_by_name(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("Gather", ["table", "x"], ["e"]),
            helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
            helper.make_node("Add", ["m", "z"], ["a"]),
            helper.make_node("Gemm", ["a", "w"], ["y"]),
        ],
        [weight("table", 50, 32), weight("w", 32, 6)],
        shape=("n", 7),
        dtype=TensorProto.INT64,
    )
    second = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 32])
    model.graph.input.append(second)
    inputs: dict[str, Array] = {
        "z": RNG.standard_normal((24, 32)).astype(np.float32),
        "x": RNG.integers(0, 50, (24, 7)),
    }

    result = run(model, inputs, tmp_path)

    assert result.model is not None


def test_the_judged_output_comes_first_in_the_variant(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("ArgMax", ["p"], ["y"], axis=1),
        ],
        [weight("w", 8, 64)],
        gives=TensorProto.INT64,
    )
    scores = helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 64])
    model.graph.output.append(scores)

    result = run(model, features(), tmp_path)

    assert result.model is not None
    made = onnx.load_model_from_string(result.model)
    assert [value.name for value in made.graph.output] == ["p", "y"]


def test_samples_that_calibrate_and_judge_are_noted(tmp_path: Path) -> None:
    result = run(fixed_to_one(), features(), tmp_path, Options(kinds=("fp16",)))

    told = "40 of 40 evaluation samples are calibration samples too"
    assert any(told in note for note in result.evaluation.notes)


def test_an_old_opset_is_converted_and_still_says_the_same(tmp_path: Path) -> None:
    path = make_model(tmp_path / "old.onnx", opset=11)
    profile = load_profile(str(lenient_profile("board-arm64", tmp_path)))

    result = optimize(path, make_data(), profile, options=Options(kinds=("static",)))

    assert result.accepted, result.evaluation.reason
    assert "converted from opset 11 to 17; outputs are equal" in result.evaluation.notes


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.full(30, 9), "labels run from 9 to 9, the model has 4 classes"),
        (np.zeros(29, np.int64), "shape [29], there are 30 samples"),
    ],
)
def test_labels_that_do_not_match_are_refused(
    labels: Array, told: str, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m.onnx")
    inputs = make_samples(1, 30).inputs

    with pytest.raises(RejectedError) as refused:
        optimize(
            path,
            Data(Samples(inputs), Samples(inputs, labels)),
            load_profile("board-arm64"),
        )

    assert refused.value.code is Code.DATA_INVALID
    assert told in refused.value.detail


def test_a_step_that_hangs_is_ended_and_told(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match=r"did not end within 0\.01 s"):
        run(trained(), features(), tmp_path, Options(bounds=Bounds(seconds=0.01)))


def test_a_step_that_outgrows_its_memory_is_a_refusal(tmp_path: Path) -> None:
    huge = build(
        [
            helper.make_node("Expand", ["x", "shape"], ["e"]),
            helper.make_node("ReduceSum", ["e"], ["y"], keepdims=0),
        ],
        [numpy_helper.from_array(np.array([40_000_000, 1, 8]), "shape")],
    )
    inputs = features(8, 8)

    with pytest.raises(RejectedError) as refused:
        run(huge, inputs, tmp_path, Options(bounds=Bounds(memory_mb=700)))

    assert refused.value.code is Code.MODEL_INVALID


def test_a_child_that_crashes_is_told_by_its_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nkill -SEGV $$\n", "utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))

    with pytest.raises(RejectedError, match=r"crashed \(SIGSEGV\)"):
        Sandbox(tmp_path / "steps").run(
            "inspect", steps.InspectRequest(model=Path("m.onnx")), steps.Source
        )


def test_a_sandbox_that_cannot_be_written_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sandbox = Sandbox(tmp_path / "file" / "sandbox")
    request = steps.InspectRequest(model=tmp_path / "net.onnx")

    with pytest.raises(RejectedError, match="could not be written") as refused:
        sandbox.run("inspect", request, steps.Source)

    assert refused.value.code is Code.DISK_FAILED
