"""Treatments that store weights in fewer bytes, on the real runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.quantize.products import pack_blocks
from quarterdeck_controller.optimize.quantize.shrink import shrink
from quarterdeck_controller.optimize.recipe import (
    Recipe,
    Scheme,
)
from tests.support.quantizable import (
    attention,
    convolutions,
    graph,
    kernels,
    normal,
    recurrent,
    run,
    sqnr,
)

WEIGHTS = Recipe("weights")
IMAGES = {"x": normal(0, 8, 3, 16, 16)}
TOKENS = {"x": normal(0, 4, 8, 64)}
SEQUENCE = {"x": normal(0, 5, 2, 16)}
COUNTED = {"ids": np.array([[0, 7, 3], [499, 2, 0]], np.int64)}


def embedding(axis: int = 0) -> onnx.ModelProto:
    node = helper.make_node("Gather", ["table", "ids"], ["y"], axis=axis, name="rows")
    model = graph([node], {"table": normal(1, 500, 40)}, inputs={}, outputs={"y": []})
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 3])
    model.graph.input.append(ids)
    return onnx.shape_inference.infer_shapes(model)


def test_folded_weights_run_on_floats_own_kernels(tmp_path: Path) -> None:
    model = convolutions()

    made = make(model, {}, WEIGHTS).model

    assert kernels(made, tmp_path) == kernels(model, tmp_path)
    assert sqnr(model, made, IMAGES) > 40


def test_weights_that_are_not_folded_are_made_float_at_every_run(
    tmp_path: Path,
) -> None:
    model = convolutions()

    made = make(model, {}, WEIGHTS, fold=False).model

    assert kernels(made, tmp_path)["DequantizeLinear"] == 4
    folded = make(model, {}, WEIGHTS).model
    assert np.allclose(run(made, IMAGES), run(folded, IMAGES), atol=1e-5)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_recurrent_weights_shrink_inside_branches_too(inside: bool, fold: bool) -> None:
    model = recurrent(inside=inside)

    made = make(model, {}, WEIGHTS, fold=fold)

    shrink(made.model)
    onnx.checker.check_model(made.model)
    assert made.treated == {"weights": 1}
    assert made.model.ByteSize() < 0.4 * model.ByteSize()
    assert sqnr(model, made.model, SEQUENCE) > 30


@pytest.mark.parametrize("axis", [0, 1])
def test_a_table_is_gathered_by_rows_of_integers(axis: int) -> None:
    model = embedding(axis)
    ids = COUNTED["ids"] if axis == 0 else COUNTED["ids"] % 40

    made = make(model, {}, WEIGHTS)

    onnx.checker.check_model(made.model)
    assert made.treated == {"weights": 1}
    assert sqnr(model, made.model, {"ids": ids}) > 40


def test_a_table_stays_in_integers_when_it_is_loaded(tmp_path: Path) -> None:
    made = make(embedding(), {}, WEIGHTS).model
    kernels(made, tmp_path)

    optimized = onnx.load(tmp_path / "optimized.onnx")
    large = [t for t in optimized.graph.initializer if np.prod(t.dims) > 1000]
    assert [tensor.data_type for tensor in large] == [TensorProto.INT8]


def test_a_dynamic_product_is_one_kernel(tmp_path: Path) -> None:
    model = attention()

    made = make(model, {}, Recipe("dynamic"))

    found = kernels(made.model, tmp_path)
    assert made.treated == {"dynamic": 4, "float": 2}
    assert found["MatMulInteger"] == 0
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 4
    assert sqnr(model, made.model, TOKENS) > 28


@pytest.mark.parametrize("scheme", ["u8s8", "u8u8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamic_products_take_either_type_of_weights(
    scheme: Scheme, per_channel: bool
) -> None:
    model = attention()
    recipe = Recipe("dynamic", scheme=scheme, per_channel=per_channel)

    made = make(model, {}, recipe).model

    assert sqnr(model, made, TOKENS) > 26


def test_four_bits_keep_most_of_a_matrix() -> None:
    model = attention()

    made = make(model, {}, Recipe("weights4"))

    assert made.treated == {"float": 2, "weights4": 4}
    assert sqnr(model, made.model, TOKENS) > 12


def test_blocks_unpack_to_what_was_packed() -> None:
    matrix = normal(3, 70, 5)
    matrix[32:64, 2] = 0

    packed, scales = pack_blocks(matrix)

    levels = np.stack([packed & 15, packed >> 4], -1).reshape(5, -1).astype(np.float32)
    unpacked = (levels - 8) * scales.reshape(5, 3).repeat(32, axis=1)
    error = np.abs(unpacked[:, :70].T - matrix)
    assert (error <= np.abs(scales).max() * 2).all()
    assert (error**2).mean() < 0.01 * (matrix**2).mean()


def test_half_precision_loads_with_branches_and_recurrence() -> None:
    for model, feed in (
        (convolutions(), IMAGES),
        (attention(), TOKENS),
        (recurrent(), SEQUENCE),
        (recurrent(inside=True), SEQUENCE),
    ):
        made = make(model, {}, Recipe("fp16"))

        onnx.checker.check_model(made.model)
        inputs = [value.type.tensor_type.elem_type for value in made.model.graph.input]
        assert inputs == [TensorProto.FLOAT]
        assert sqnr(model, made.model, feed) > 40


def test_weights_that_are_not_finite_stay_as_they_are() -> None:
    table = normal(1, 300, 4)
    table[5] = -np.inf
    node = helper.make_node("Gather", ["table", "ids"], ["y"], name="rows")
    model = graph([node], {"table": table}, inputs={}, outputs={"y": []})
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    model.graph.input.append(ids)
    feed = {"ids": np.array([5, 6], np.int64)}

    made = make(model, {}, WEIGHTS).model

    assert np.array_equal(run(model, feed), run(made, feed))


def test_anchors_and_other_constants_keep_eleven_bits() -> None:
    node = helper.make_node("Add", ["x", "anchors"], ["y"], name="add")
    shapes: dict[str, Any] = {
        "inputs": {"x": [1, 896, 4]},
        "outputs": {"y": [1, 896, 4]},
    }
    held = {"anchors": normal(1, 1, 896, 4)}
    model = graph([node], held, **shapes)
    feed = {"x": np.zeros((1, 896, 4), np.float32)}

    made = make(model, {}, WEIGHTS).model

    assert made.ByteSize() < 0.6 * model.ByteSize()
    assert np.allclose(run(made, feed), run(model, feed), rtol=1e-3, atol=1e-6)
