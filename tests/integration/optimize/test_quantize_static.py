"""Static treatments on the real runtime: kernels, accuracy, and what they refuse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.recipe import (
    Calibration,
    Kind,
    Overrides,
    Recipe,
    Scheme,
    Scope,
)
from tests.support.quantizable import (
    attention,
    convolutions,
    gemm,
    graph,
    kernels,
    normal,
    run,
    spreads_of,
    sqnr,
)

STATIC = Recipe("static", calibration="minmax")
IMAGES = {"x": normal(0, 32, 3, 16, 16)}
TOKENS = {"x": normal(0, 16, 8, 64)}
ROWS = {"x": normal(0, 64, 32)}


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 21])
def test_every_convolution_runs_in_integers(tmp_path: Path, opset: int) -> None:
    model = convolutions(opset)

    made = make(model, spreads_of(model, IMAGES), STATIC)

    found = kernels(made.model, tmp_path)
    assert made.treated == {"static": 5}
    assert found["QLinearConv"] == 4
    assert found["Conv"] + found["FusedConv"] == 0
    assert found["QGemm"] == 1
    assert sqnr(model, made.model, IMAGES) > 30


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("scheme", ["u8s8", "u8u8", "s8s8"])
def test_every_scheme_stays_close_to_float(
    scheme: Scheme, calibration: Calibration
) -> None:
    model = convolutions()
    recipe = Recipe("static", scheme=scheme, calibration=calibration)

    made = make(model, spreads_of(model, IMAGES), recipe)

    assert sqnr(model, made.model, IMAGES) > 28


@pytest.mark.parametrize(
    ("changed", "least"),
    [
        ({"per_channel": False}, 25),
        ({"reduce_range": True}, 26),
        ({"symmetric": True}, 25),
        ({"symmetric": True, "scheme": "s8s8", "per_channel": False}, 22),
        ({"scope": "elementwise"}, 28),
        ({"format": "qoperator"}, 28),
        ({"format": "qoperator", "scope": "elementwise"}, 28),
        ({"format": "qoperator", "symmetric": True, "scheme": "s8s8"}, 22),
    ],
)
def test_every_variation_stays_close_to_float(
    changed: dict[str, Any], least: float
) -> None:
    model = convolutions()
    recipe = replace(STATIC, **changed)

    made = make(model, spreads_of(model, IMAGES), recipe)

    onnx.checker.check_model(made.model)
    assert sqnr(model, made.model, IMAGES) > least


def test_both_formats_say_the_same() -> None:
    model = convolutions()
    spreads = spreads_of(model, IMAGES)

    marked = make(model, spreads, replace(STATIC, scope="elementwise")).model
    written = make(
        model, spreads, replace(STATIC, scope="elementwise", format="qoperator")
    ).model

    assert sqnr(marked, written, IMAGES) > 45
    assert "DequantizeLinear" not in {
        node.op_type for node in written.graph.node if node.op_type == "Conv"
    }


def test_the_operator_format_needs_no_fusion() -> None:
    model = convolutions()

    made = make(model, spreads_of(model, IMAGES), replace(STATIC, format="qoperator"))

    operators = [node.op_type for node in made.model.graph.node]
    assert operators.count("QLinearConv") == 4
    assert operators.count("QGemm") == 1
    assert "Relu" not in operators[: operators.index("QLinearConv")]


def test_elementwise_operators_join_only_between_integers(tmp_path: Path) -> None:
    model = convolutions()
    spreads = spreads_of(model, IMAGES)

    alone = make(model, spreads, STATIC)
    joined = make(model, spreads, replace(STATIC, scope="elementwise"))
    found = kernels(joined.model, tmp_path)

    assert alone.treated["static"] == 5
    assert found["QLinearAdd"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert joined.treated["static"] == 7


def test_a_pool_between_integers_moves_integers(tmp_path: Path) -> None:
    model = convolutions()

    made = make(model, spreads_of(model, IMAGES), STATIC).model
    kernels(made, tmp_path)

    optimized = onnx.load(tmp_path / "optimized.onnx")
    makers = {name: n for n in optimized.graph.node for name in n.output}
    pools = [n for n in optimized.graph.node if "MaxPool" in n.op_type]
    assert [makers[pool.input[0]].op_type for pool in pools] == ["QLinearConv"]


def test_a_mask_does_not_spoil_attention() -> None:
    model = attention()

    made = make(model, spreads_of(model, TOKENS), STATIC)

    assert made.treated == {"static": 6}
    assert sqnr(model, made.model, TOKENS) > 25


def test_products_between_floats_give_out_floats(tmp_path: Path) -> None:
    model = attention()

    made = make(model, spreads_of(model, TOKENS), STATIC)

    found = kernels(made.model, tmp_path)
    assert found["MatMul"] + found["FusedMatMul"] == 0
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == 6


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"alpha": 0.25}, {"beta": 3.0, "transB": 1}]
)
@pytest.mark.parametrize("kind", ["static", "dynamic", "weights", "weights4"])
def test_a_gemm_keeps_its_factors(kind: Kind, attributes: dict[str, float]) -> None:
    model = gemm(**attributes)
    recipe = Recipe(kind, calibration="minmax")

    made = make(model, spreads_of(model, ROWS), recipe)

    assert made.treated == {kind: 1}
    assert sqnr(model, made.model, ROWS) > (18 if kind == "weights4" else 32)


def test_a_gemm_of_a_transposed_left_side_keeps_float() -> None:
    model = gemm(transA=1)
    feed = {"x": normal(0, 32, 64)}

    made = make(model, {}, Recipe("dynamic"))

    assert made.treated == {"weights": 1}
    assert any("transposed" in note for note in made.notes)
    assert sqnr(model, made.model, feed) > 35


def test_a_bias_too_large_for_its_channel_does_not_overflow() -> None:
    weights = normal(1, 64, 32)
    weights[3] = 1e-9
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    bias = np.full(64, 2.5, np.float32)
    shapes: dict[str, Any] = {"inputs": {"x": ["n", 32]}, "outputs": {"y": ["n", 64]}}
    model = graph([node], {"w": weights, "b": bias}, **shapes)

    made = make(model, spreads_of(model, ROWS), STATIC)

    assert np.abs(run(made.model, ROWS)[:, 3] - 2.5).max() < 0.01


def test_weights_read_by_two_operators_fit_both() -> None:
    make_node = helper.make_node
    nodes = [
        make_node("MatMul", ["x", "w"], ["a"]),
        make_node("Relu", ["a"], ["r"]),
        make_node("MatMul", ["r", "w"], ["y"]),
    ]
    shapes: dict[str, Any] = {"inputs": {"x": ["n", 32]}, "outputs": {"y": ["n", 32]}}
    model = graph(nodes, {"w": normal(1, 32, 32)}, **shapes)

    both = make(model, spreads_of(model, ROWS), STATIC)
    mixed = make(
        model,
        spreads_of(model, ROWS),
        replace(STATIC, overrides=(("2_MatMul", "weights"),)),
    )

    assert sqnr(model, both.model, ROWS) > 30
    assert mixed.treated == {"static": 1, "weights": 1}
    assert sqnr(model, mixed.model, ROWS) > 30


def test_a_constant_on_the_left_is_quantized_too() -> None:
    node = helper.make_node("MatMul", ["w", "x"], ["y"])
    shapes: dict[str, Any] = {
        "inputs": {"x": ["n", 32, 20]},
        "outputs": {"y": ["n", 24, 20]},
    }
    model = graph([node], {"w": normal(1, 24, 32)}, **shapes)
    feed = {"x": normal(2, 4, 32, 20)}

    static = make(model, spreads_of(model, feed), STATIC)
    dynamic = make(model, {}, Recipe("dynamic"))

    assert static.treated == {"static": 1}
    assert dynamic.treated == {"weights": 1}
    assert sqnr(model, static.model, feed) > 30
    assert sqnr(model, dynamic.model, feed) > 35


def test_each_operator_gets_the_treatment_that_the_recipe_names() -> None:
    model = convolutions()
    overrides: Overrides = (
        ("0_Conv", "float"),
        ("11_Gemm", "dynamic"),
        ("2_Conv", "weights"),
        ("5_Conv", "wide"),
        ("8_Conv", "half"),
    )

    made = make(model, spreads_of(model, IMAGES), replace(STATIC, overrides=overrides))

    expected = {"dynamic": 1, "float": 2, "half": 1, "wide": 1}
    assert made.treated == expected  # 2_Conv has too few weights to be worth it
    assert sqnr(model, made.model, IMAGES) > 35


def test_sixteen_bits_are_closer_than_eight() -> None:
    model = convolutions()
    spreads = spreads_of(model, IMAGES)
    names: Overrides = (
        ("0_Conv", "wide"),
        ("11_Gemm", "wide"),
        ("2_Conv", "wide"),
        ("5_Conv", "wide"),
    )

    wide = make(model, spreads, replace(STATIC, overrides=names)).model
    narrow = make(model, spreads, STATIC).model

    assert sqnr(model, wide, IMAGES) > sqnr(model, narrow, IMAGES) + 1


def test_only_what_is_asked_for_is_touched(tmp_path: Path) -> None:
    model = convolutions()

    made = make(model, spreads_of(model, IMAGES), STATIC, only=["5_Conv"])

    found = kernels(made.model, tmp_path)
    assert made.treated == {"float": 4, "static": 1}
    assert found["QLinearConv"] == 1
    assert len(made.model.graph.initializer) > len(model.graph.initializer)


def test_the_class_limits_what_is_static() -> None:
    model = convolutions()

    made = make(model, spreads_of(model, IMAGES), STATIC, operators=("Conv", "Relu"))

    assert made.treated == {"static": 4, "weights": 1}


def test_a_tensor_that_readers_see_elsewhere_stays_whole() -> None:
    make_node = helper.make_node
    nodes = [
        make_node("Conv", ["x", "w"], ["c"]),
        make_node("Relu", ["c"], ["r"]),
        make_node("Conv", ["r", "v"], ["y"]),
    ]
    held = {"w": normal(1, 8, 3, 3, 3), "v": normal(2, 8, 8, 1, 1)}
    model = graph(
        nodes,
        held,
        inputs={"x": ["n", 3, 16, 16]},
        outputs={"y": ["n", 8, 14, 14], "c": ["n", 8, 14, 14]},
    )

    made = make(model, spreads_of(model, IMAGES), STATIC).model

    assert [value.name for value in made.graph.output] == ["y", "c"]
    assert sqnr(model, made, IMAGES) > 30


def test_an_operator_of_unknown_range_stays_in_float() -> None:
    model = convolutions()
    spreads = spreads_of(model, IMAGES)
    del spreads["r3"]

    made = make(model, spreads, STATIC)

    assert made.treated == {"static": 4, "weights": 1}
    assert made.notes == ("8_Conv is not static: nothing is known of r3",)


def test_a_convolution_of_signals_runs_in_integers(tmp_path: Path) -> None:
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], group=2, dilations=[2], strides=[2]
    )
    held = {"w": normal(1, 32, 4, 5), "b": normal(2, 32)}
    shapes: dict[str, Any] = {
        "inputs": {"x": ["n", 8, 40]},
        "outputs": {"y": ["n", 32, None]},
    }
    model = graph([node], held, **shapes)
    feed = {"x": normal(0, 8, 8, 40)}

    made = make(model, spreads_of(model, feed), STATIC)

    assert kernels(made.model, tmp_path)["QLinearConv"] == 1
    assert sqnr(model, made.model, feed) > 30


def test_an_image_of_bytes_does_not_lie_on_ties() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (16, 3, 16, 16))
    feed = {"x": (levels / 127.5 - 1).astype(np.float32)}
    feed["x"][0, 0, 0, :2] = [-1, 1]
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    shapes: dict[str, Any] = {
        "inputs": {"x": ["n", 3, 16, 16]},
        "outputs": {"y": ["n", 8, 14, 14]},
    }
    model = graph([node], {"w": normal(1, 8, 3, 3, 3)}, **shapes)

    made = make(model, spreads_of(model, feed), STATIC).model

    zeros = [
        onnx.numpy_helper.to_array(t).item()
        for t in made.graph.initializer
        if t.data_type == TensorProto.UINT8 and t.name.startswith("x_")
    ]
    assert zeros == [128]
    assert sqnr(model, made, feed) > 36


@pytest.mark.parametrize("kind", ["static", "dynamic", "weights", "weights4", "fp16"])
def test_the_same_recipe_gives_the_same_bytes(kind: Kind) -> None:
    model = convolutions()
    recipe = Recipe(kind, scope="elementwise")

    made = [make(model, spreads_of(model, IMAGES), recipe).model for _ in range(2)]

    one, other = (m.SerializeToString(deterministic=True) for m in made)
    assert one == other


MOVING: dict[str, tuple[dict[str, Any], dict[str, list[int]]]] = {
    "Reshape": ({}, {"by": [-1, 16]}),
    "Transpose": ({"perm": [0, 2, 3, 1]}, {}),
    "Squeeze": ({}, {"by": [2]}),
    "Unsqueeze": ({}, {"by": [1]}),
    "Flatten": ({}, {}),
    "MaxPool": ({"kernel_shape": [1, 2]}, {}),
    "Slice": ({}, {"by": [0], "end": [8], "axis": [1]}),
}


@pytest.mark.parametrize("scope", ["heavy", "elementwise"])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("operator", MOVING)
def test_integers_moved_to_a_branch_do_not_crash_the_runtime(
    operator: str, twice: bool, scope: Scope
) -> None:
    model = branches_read_moved(operator, twice=twice)
    samples = {"x": normal(0, 16, 3, 1, 16)}

    made = make(model, spreads_of(model, samples, 1), replace(STATIC, scope=scope))

    assert made.treated["static"] == 1
    assert sqnr(model, made.model, {"x": samples["x"][:1]}) > 25


def branches_read_moved(operator: str, *, twice: bool) -> onnx.ModelProto:
    """Return a convolution whose output an operator moves to the branches of an If."""

    def branch(name: str, inside: str) -> onnx.GraphProto:
        node = helper.make_node(inside, ["moved"], [name], name=name)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [output])

    attributes, indices = MOVING[operator]
    again = [helper.make_node("Unsqueeze", ["first", "zero"], ["moved"])]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[0, 1, 0, 1]),
        helper.make_node(
            operator, ["c", *indices], ["first" if twice else "moved"], **attributes
        ),
        *(again if twice else []),
        helper.make_node("ReduceMax", ["moved"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["large"]),
        helper.make_node(
            "If",
            ["large"],
            ["y"],
            then_branch=branch("a", "Sigmoid"),
            else_branch=branch("b", "Tanh"),
        ),
    ]
    constants: dict[str, Any] = {
        "w": normal(1, 16, 3, 1, 3, scale=0.3),
        "limit": np.array(0, np.float32),
        "zero": np.array([0], np.int64),
    }
    constants |= {name: np.array(value, np.int64) for name, value in indices.items()}
    made = graph(nodes, constants, inputs={"x": ["n", 3, 1, 16]}, outputs={"y": []})
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made
