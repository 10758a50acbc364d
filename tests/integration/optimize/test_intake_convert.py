"""Preparing odd models: opsets, precisions, batches, sizes, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quarterdeck_controller.optimize.intake.graph import opset_of
from quarterdeck_controller.optimize.intake.prepare import prepare
from quarterdeck_controller.optimize.intake.source import inspect
from quarterdeck_controller.optimize.steps import (
    InspectRequest,
    PrepareRequest,
)
from quarterdeck_shared.errors import RejectedError
from tests.support.intake import (
    FLOAT,
    RNG,
    branching,
    build,
    constant,
    features,
    only,
    operators,
    prepared,
    same,
    store,
    weight,
)

# opsets and types ---------------------------------------------------------------------


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 16])
def test_an_old_opset_is_converted_and_says_the_same(
    opset: int, tmp_path: Path
) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Softmax", ["h"], ["y"], axis=1),
        ],
        [weight("w", 8, 4)],
        opset=opset,
    )

    answer, made = prepared(model, features(), tmp_path)

    assert opset_of(made) == 17
    assert operators(made) == ["MatMul", "Softmax"]
    assert f"converted from opset {opset} to 17; outputs are equal" in answer.notes
    assert same(tmp_path) < 1e-6


def test_an_opset_that_the_runtime_does_not_run_is_converted_first(
    tmp_path: Path,
) -> None:
    add = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)
    model = build([add], [weight("b", 8)], opset=6)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    request = PrepareRequest(
        model=path, out=tmp_path / "out.onnx", samples=store(tmp_path, features())
    )

    answer = prepare(request)

    assert opset_of(onnx.load(tmp_path / "out.onnx")) == 17
    assert "the runtime does not run opset 6: converted unseen" in answer.notes


def test_a_newer_opset_is_not_lowered(tmp_path: Path) -> None:
    model = build([helper.make_node("Gelu", ["x"], ["y"])], opset=20)

    _, made = prepared(model, features(), tmp_path)

    assert opset_of(made) == 20


def test_an_ir_version_is_as_old_as_the_opset_allows(tmp_path: Path) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])])
    model.ir_version = 99  # newer than any runtime knows

    _, made = prepared(model, features(), tmp_path)

    assert made.ir_version == 8


@pytest.mark.parametrize(
    ("kind", "dtype", "told"),
    [
        (TensorProto.FLOAT16, np.float16, "half precision was widened to float32"),
        (TensorProto.DOUBLE, np.float64, "float64 was made float32; outputs are equal"),
    ],
)
def test_other_precisions_compute_in_float32_behind_the_same_inputs(
    kind: int, dtype: type, told: str, tmp_path: Path
) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Mul", ["r", "r"], ["y"]),
        ],
        [constant("w", RNG.standard_normal((8, 6)).astype(dtype))],
        kind=kind,
    )

    answer, made = prepared(model, {"x": features()["x"].astype(dtype)}, tmp_path)

    assert told in answer.notes
    assert only(answer).bytes == 8 * 6 * 4
    assert made.graph.input[0].type.tensor_type.elem_type == kind
    assert made.graph.output[0].type.tensor_type.elem_type == kind
    assert same(tmp_path) < 0.01


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    model = build([helper.make_node("Twice", ["x"], ["y"], domain="own")])
    model.opset_import.append(helper.make_opsetid("own", 1))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function("own", "Twice", ["a"], ["b"], body, model.opset_import[:1])
    )

    _, made = prepared(model, features(), tmp_path)

    assert operators(made) == ["Add"]


# batches ------------------------------------------------------------------------------


def test_samples_run_together_when_that_changes_nothing(tmp_path: Path) -> None:
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 8, 4)])

    answer, _ = prepared(model, features(), tmp_path)

    assert answer.batch == 64


def test_large_samples_run_fewer_at_a_time(tmp_path: Path) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], shape=("n", 1 << 20))

    answer, _ = prepared(model, features(1 << 20, count=2), tmp_path)

    assert answer.batch == 4


def test_samples_that_touch_each_other_run_one_by_one(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]),
            helper.make_node("Add", ["x", "m"], ["y"]),
        ]
    )

    answer, _ = prepared(model, features(), tmp_path)

    assert answer.batch == 1


def test_a_state_and_a_rate_are_fed_whole(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("ReduceMean", ["state"], ["s"], axes=[0], keepdims=0),
            helper.make_node("Cast", ["sr"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["s", "f"], ["g"]),
            helper.make_node("Add", ["h", "g"], ["y"]),
        ],
        [weight("w", 8, 4)],
    )
    model.graph.input.extend(
        [
            helper.make_tensor_value_info("state", FLOAT, [2, "n", 4]),
            helper.make_tensor_value_info("sr", TensorProto.INT64, []),
        ]
    )
    samples = {
        **features(),
        "state": RNG.standard_normal((6, 2, 1, 4)).astype(np.float32),
        "sr": np.arange(6),
    }

    answer, _ = prepared(model, samples, tmp_path, frozenset({"state", "sr"}))

    assert answer.batch == 1
    assert same(tmp_path) == 0


# refusals -----------------------------------------------------------------------------


def refused(model: onnx.ModelProto, folder: Path) -> str:
    with pytest.raises(RejectedError) as told:
        prepared(model, features(), folder)
    return told.value.detail


def test_a_model_that_does_not_run_is_refused_in_the_runtime_s_words(
    tmp_path: Path,
) -> None:
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 5, 4)])

    assert "onnxruntime cannot run the float model" in refused(model, tmp_path)


def test_a_model_that_gives_nan_is_refused(tmp_path: Path) -> None:
    model = build([helper.make_node("Sqrt", ["x"], ["y"])])

    assert "gives NaN for sample 0 of the data in output y" in refused(model, tmp_path)


def test_a_model_that_answers_differently_every_time_is_refused(
    tmp_path: Path,
) -> None:
    model = build(
        [
            helper.make_node("RandomNormalLike", ["x"], ["r"]),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ]
    )

    assert "answers differently every time" in refused(model, tmp_path)


def test_outputs_that_cannot_be_judged_are_not_given(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("Constant", [], ["word"], value_string="yes"),
        ]
    )
    word = helper.make_tensor_value_info("word", TensorProto.STRING, [])
    model.graph.output.insert(0, word)

    _, made = prepared(model, features(), tmp_path)

    assert [value.name for value in made.graph.output] == ["y"]


# large models -------------------------------------------------------------------------


def large(folder: Path) -> PrepareRequest:
    model = build(
        [
            helper.make_node("Constant", [], ["w"], value=weight("", 8, 300)),
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "v"], ["s"], name="second"),
            helper.make_node("Softmax", ["s"], ["y"], axis=1),
        ],
        [weight("v", 300, 6)],
        opset=11,
    )
    onnx.save_model(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    return PrepareRequest(
        model=folder / "model.onnx",
        out=folder / "prepared.onnx",
        samples=store(folder, features()),
    )


def test_weights_that_are_too_large_stay_on_disk_while_the_graph_is_worked_on(
    tmp_path: Path,
) -> None:
    answer = prepare(large(tmp_path), apart_bytes=1000)

    assert [(node.name, node.bytes) for node in answer.nodes] == [
        ("first", 8 * 300 * 4),
        ("second", 300 * 6 * 4),
    ]
    assert opset_of(onnx.load(tmp_path / "prepared.onnx")) == 17
    assert not list(tmp_path.glob("*.data"))  # small enough after all for one file
    assert not list(tmp_path.glob("*.draft.onnx"))
    assert same(tmp_path) < 1e-6


def test_a_large_prepared_model_keeps_its_weights_beside_it(tmp_path: Path) -> None:
    request = large(tmp_path)

    answer = prepare(request, apart_bytes=1000, file_bytes=1000)

    shell = onnx.load(request.out, load_external_data=False)
    assert (tmp_path / "prepared.data").stat().st_size > 8 * 300 * 4
    assert request.out.stat().st_size < 2000
    assert shell.graph.initializer
    assert inspect(InspectRequest(model=request.out)).external == ("prepared.data",)
    assert answer.nodes
    assert same(tmp_path) < 1e-6


def test_the_same_model_and_samples_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    samples, model = features(), branching()
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        prepared(model, samples, folder)
        found.append((folder / "prepared.onnx").read_bytes())

    assert found[0] == found[1]
