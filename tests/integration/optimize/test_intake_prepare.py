"""Preparing a model: it says the same, in the form that recipes need, or is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_controller.optimize.data.stored import Stored, Writer
from quarterdeck_controller.optimize.intake.equal import furthest, outputs_of
from quarterdeck_controller.optimize.intake.graph import opset_of, walk
from quarterdeck_controller.optimize.intake.prepare import prepare
from quarterdeck_controller.optimize.intake.source import inspect
from quarterdeck_controller.optimize.steps import (
    InspectRequest,
    Node,
    Prepared,
    PrepareRequest,
)
from quarterdeck_shared.errors import RejectedError

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


def weight(name: str, *shape: int) -> TensorProto:
    return constant(name, RNG.standard_normal(shape).astype(np.float32))


def constant(name: str, array: Array) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def build(
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto] = (),
    *,
    shape: Shape = ("n", 8),
    opset: int = 17,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def features(*shape: int, count: int = 6) -> dict[str, Array]:
    return {"x": RNG.standard_normal((count, *(shape or (8,)))).astype(np.float32)}


def store(
    folder: Path, samples: dict[str, Array], whole: frozenset[str] = frozenset()
) -> Path:
    with Writer(folder / "samples", whole) as writer:
        writer.add(samples)
    return folder / "samples"


def prepared(
    model: onnx.ModelProto,
    samples: dict[str, Array],
    folder: Path,
    whole: frozenset[str] = frozenset(),
) -> tuple[Prepared, onnx.ModelProto]:
    """Prepare, and check what must hold of everything that was prepared."""
    path, out = folder / "model.onnx", folder / "prepared.onnx"
    path.write_bytes(model.SerializeToString())
    stored = store(folder, samples, whole)
    answer = prepare(PrepareRequest(model=path, out=out, samples=stored))
    made = onnx.load(out)
    onnx.checker.check_model(made)
    names = [node.name for node in walk(made.graph)]
    assert all(names)
    assert len(set(names)) == len(names)
    assert {node.name for node in answer.nodes} <= set(names)
    return answer, made


def same(folder: Path) -> float:
    samples = Stored.open(folder / "samples")
    feeds = [samples.sample(row) for row in range(samples.count)]
    return furthest(
        outputs_of(folder / "model.onnx", feeds),
        outputs_of(folder / "prepared.onnx", feeds),
    )


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in walk(model.graph)]


def only(answer: Prepared) -> Node:
    (node,) = answer.nodes
    return node


# constants ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "stored"),
    [
        ([helper.make_node("Transpose", ["v"], ["w"], perm=[1, 0])], (64, 8)),
        ([helper.make_node("Identity", ["v"], ["w"])], (8, 64)),
        ([helper.make_node("Reshape", ["v", "shape"], ["w"])], (512,)),
        ([helper.make_node("Cast", ["v"], ["w"], to=FLOAT)], (8, 64)),
        (
            [
                helper.make_node("Transpose", ["v"], ["t"], perm=[1, 0]),
                helper.make_node("Identity", ["t"], ["w"]),
            ],
            (64, 8),
        ),
    ],
)
def test_weights_that_are_made_of_constants_are_constants(
    nodes: list[NodeProto], stored: tuple[int, ...], tmp_path: Path
) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    shape = constant("shape", np.array([8, 64]))
    model = build([*nodes, product], [weight("v", *stored), shape])

    answer, made = prepared(model, features(), tmp_path)

    assert operators(made) == ["MatMul"]
    assert (only(answer).bytes, only(answer).channels) == (8 * 64 * 4, 64)
    assert same(tmp_path) == 0


def test_constant_nodes_and_initializers_that_are_inputs_become_weights(
    tmp_path: Path,
) -> None:
    model = build(
        [
            helper.make_node("Constant", [], ["w"], value=weight("", 8, 4)),
            helper.make_node("Constant", [], ["two"], value_float=2.0),
            helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
            helper.make_node("Mul", ["h", "two"], ["y"]),
        ],
        [weight("b", 4)],
    )
    model.graph.input.append(helper.make_tensor_value_info("b", FLOAT, [4]))

    answer, made = prepared(model, features(), tmp_path)

    assert [value.name for value in made.graph.input] == ["x"]
    assert "Constant" not in operators(made)
    assert only(answer).operator == "Gemm"


def test_folding_does_not_swell_the_file(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("Expand", ["one", "shape"], ["huge"]),
            helper.make_node("MatMul", ["x", "huge"], ["h"]),
            helper.make_node("ReduceMean", ["h"], ["y"], axes=[1]),
        ],
        [
            constant("one", np.ones((8, 1), np.float32)),
            constant("shape", np.array([8, 200_000])),
        ],
    )

    _, made = prepared(model, features(), tmp_path)

    assert "Expand" in operators(made)
    assert (tmp_path / "prepared.onnx").stat().st_size < 10_000


def test_small_constants_are_folded_whole(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("Range", ["zero", "eight", "one"], ["r"]),
            helper.make_node("Cast", ["r"], ["f"], to=FLOAT),
            helper.make_node("Add", ["x", "f"], ["y"]),
        ],
        [constant(n, np.array(v)) for n, v in (("zero", 0), ("eight", 8), ("one", 1))],
    )

    _, made = prepared(model, features(), tmp_path)

    assert operators(made) == ["Add"]


def test_dead_nodes_are_gone_and_stale_shapes_with_them(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "dead"], ["nothing"]),
            helper.make_node("Relu", ["nothing"], ["less"]),
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Tanh", ["h"], ["y"]),
        ],
        [weight("dead", 8, 99), weight("w", 8, 4)],
    )
    model.graph.value_info.append(helper.make_tensor_value_info("h", FLOAT, ["n", 77]))

    answer, made = prepared(model, features(), tmp_path)

    shapes = {v.name: v.type.tensor_type.shape.dim for v in made.graph.value_info}
    assert operators(made) == ["MatMul", "Tanh"]
    assert only(answer).bytes == 8 * 4 * 4
    assert shapes["h"][1].dim_value == 4


# norms --------------------------------------------------------------------------------


def norm(name: str, size: int) -> tuple[NodeProto, list[TensorProto]]:
    parts = [f"{name}{part}" for part in ("scale", "shift", "mean", "variance")]
    constants = [weight(part, size) for part in parts[:3]]
    variance = RNG.uniform(0.3, 2, size).astype(np.float32)
    node = helper.make_node("BatchNormalization", ["h", *parts], ["y"])
    return node, [*constants, constant(parts[3], variance)]


@pytest.mark.parametrize(
    ("maker", "shapes", "shape"),
    [
        (helper.make_node("Conv", ["x", "w"], ["h"]), [(6, 3, 2, 2)], (3, 5, 5)),
        (
            helper.make_node("ConvTranspose", ["x", "w", "b"], ["h"], group=2),
            [(4, 3, 2, 2), (6,)],
            (4, 5, 5),
        ),
        (
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], alpha=0.5, beta=2.0),
            [(8, 6), (6,)],
            (8,),
        ),
        (helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), [(6, 8)], (8,)),
    ],
)
def test_a_batch_norm_goes_into_the_weights_before_it(
    maker: NodeProto,
    shapes: list[tuple[int, ...]],
    shape: tuple[int, ...],
    tmp_path: Path,
) -> None:
    after, constants = norm("n", 6)
    weights = [weight(name, *s) for name, s in zip("wb", shapes, strict=False)]
    model = build([maker, after], [*weights, *constants], shape=("n", *shape))

    answer, made = prepared(model, features(*shape), tmp_path)

    assert operators(made) == [maker.op_type]
    assert only(answer).channels == 6
    assert same(tmp_path) < 1e-5


def test_a_norm_leaves_weights_alone_that_others_use(tmp_path: Path) -> None:
    after, constants = norm("n", 8)
    model = build(
        [
            helper.make_node("Gemm", ["x", "w"], ["h"]),
            helper.make_node("Gemm", ["x", "w"], ["other"]),
            *[after],
            helper.make_node("Add", ["y", "other"], ["z"]),
        ],
        [weight("w", 8, 8), *constants],
    )
    model.graph.output[0].name = "z"

    answer, _ = prepared(model, features(), tmp_path)

    assert len(answer.nodes) == 2
    assert same(tmp_path) < 1e-5


# names and subgraphs ------------------------------------------------------------------


def branch(operator: str) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight("", 8, 300)),
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node(operator, ["h"], ["o"]),
    ]
    given = helper.make_tensor_value_info("o", FLOAT, ["n", 300])
    return helper.make_graph(nodes, operator, [], [given])


def branching() -> onnx.ModelProto:
    return build(
        [
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "c"], ["yes"], name="more"),
            helper.make_node(
                "If",
                ["yes"],
                ["y"],
                name="choice",
                then_branch=branch("Relu"),
                else_branch=branch("Tanh"),
            ),
        ],
        [constant("c", np.array(1.5, np.float32))],
    )


def test_nodes_in_branches_are_named_after_where_they_are(tmp_path: Path) -> None:
    answer, made = prepared(branching(), features(count=12), tmp_path)

    assert sorted((node.name, node.inside) for node in answer.nodes) == [
        ("choice/else_branch/product", "choice"),
        ("choice/then_branch/product", "choice"),
    ]
    assert {node.bytes for node in answer.nodes} == {8 * 300 * 4}
    assert answer.batch == 1
    assert "Constant" not in operators(made)
    assert same(tmp_path) == 0


def test_tensors_of_two_branches_do_not_share_names(tmp_path: Path) -> None:
    _, made = prepared(branching(), features(), tmp_path)

    names = [name for node in walk(made.graph) for name in node.output]
    names += [tensor.name for tensor in made.graph.initializer]
    assert len(names) == len(set(names))


def derived(operator: str) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Constant", [], ["to"], value_ints=[8, 300]),
        helper.make_node("Reshape", ["flat", "to"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node(operator, ["h"], ["o"]),
    ]
    given = helper.make_tensor_value_info("o", FLOAT, ["n", 300])
    return helper.make_graph(nodes, operator, [], [given])


def test_weights_that_two_branches_make_of_the_same_are_held_once(
    tmp_path: Path,
) -> None:
    model = build(
        [
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "c"], ["yes"]),
            helper.make_node(
                "If",
                ["yes"],
                ["y"],
                then_branch=derived("Relu"),
                else_branch=derived("Tanh"),
            ),
        ],
        [constant("c", np.array(1.5, np.float32)), weight("flat", 2400)],
    )

    answer, made = prepared(model, features(count=12), tmp_path)

    large = [t for t in made.graph.initializer if len(t.raw_data) > 1000]
    assert [node.bytes for node in answer.nodes] == [9600, 9600]
    assert len(large) == 1
    assert same(tmp_path) == 0


def test_names_given_twice_or_never_are_mended(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="node"),
            helper.make_node("Relu", ["a"], ["b"], name="node"),
            helper.make_node("MatMul", ["b", "v"], ["y"]),
        ],
        [weight("w", 8, 8), weight("v", 8, 4)],
    )

    answer, _ = prepared(model, features(), tmp_path)

    assert [node.name for node in answer.nodes] == ["node", "MatMul_2"]


def test_preparing_twice_changes_no_name(tmp_path: Path) -> None:
    first, made = prepared(branching(), features(), tmp_path)
    again = tmp_path / "again"
    again.mkdir()

    second, _ = prepared(made, features(), again)

    assert second.nodes == first.nodes


# what can be treated ------------------------------------------------------------------


def test_weights_on_either_side_and_products_of_activations_are_listed(
    tmp_path: Path,
) -> None:
    model = build(
        [
            helper.make_node("MatMul", ["l", "x"], ["a"], name="left"),
            helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["a", "t"], ["b"], name="both"),
            helper.make_node("MatMul", ["b", "r"], ["y"], name="right"),
        ],
        [weight("l", 7, 5), weight("r", 7, 3)],
        shape=("n", 5, 8),
    )

    answer, _ = prepared(model, features(5, 8), tmp_path)

    found = {node.name: (node.bytes, node.channels) for node in answer.nodes}
    assert found == {"left": (140, 7), "both": (0, 0), "right": (84, 3)}


def test_imbalance_is_told_by_output_channel(tmp_path: Path) -> None:
    array = np.ones((4, 5), np.float32)
    array[:, 3] = -64
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [constant("w", array)],
        shape=("n", 4),
    )

    answer, _ = prepared(model, features(4), tmp_path)

    assert only(answer).imbalance == 64


def test_recurrent_weights_and_large_tables_are_listed(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
            helper.make_node("Transpose", ["e"], ["s"], perm=[1, 0, 2]),
            helper.make_node(
                "LSTM", ["s", "w", "r"], ["", "h"], hidden_size=6, name="rnn"
            ),
            helper.make_node("Squeeze", ["h", "axis"], ["y"]),
        ],
        [
            weight("table", 32, 8),
            weight("w", 1, 24, 8),
            weight("r", 1, 24, 6),
            constant("axis", np.array([0])),
        ],
    )

    answer, _ = prepared(model, {"x": np.abs(features()["x"])}, tmp_path)

    found = {node.name: node.bytes for node in answer.nodes}
    assert found == {"embed": 1024, "rnn": 24 * 14 * 4}


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
