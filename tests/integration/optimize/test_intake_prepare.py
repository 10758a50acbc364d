"""Preparing a model: it says the same, in the form that recipes need, or is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from quarterdeck_controller.optimize.intake.graph import walk
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
    weight,
)

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
