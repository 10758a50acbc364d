"""The steps ``calibrate`` and ``build``, from file to file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from quarterdeck_controller.optimize.data.stored import Stored, Writer
from quarterdeck_controller.optimize.quantize.build import build
from quarterdeck_controller.optimize.quantize.calibrate import calibrate, observe
from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.recipe import Format, Kind, Recipe, Scheme
from quarterdeck_controller.optimize.session import open_session
from quarterdeck_controller.optimize.steps import BuildRequest, CalibrateRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session
from tests.support.quantizable import (
    Array,
    Shape,
    attention,
    convolutions,
    graph,
    normal,
    run,
    spreads_of,
    sqnr,
    store,
)

IMAGES = {"x": normal(0, 24, 3, 16, 16)}
STATIC = Recipe("static", calibration="minmax")


def requests(
    folder: Path,
    model: onnx.ModelProto,
    recipe: Recipe = STATIC,
    samples: Mapping[str, Array] = IMAGES,
) -> tuple[CalibrateRequest, BuildRequest]:
    onnx.save(model, folder / "m.onnx")
    store(folder / "samples", samples)
    shared = {"model": folder / "m.onnx", "samples": folder / "samples", "batch": 8}
    return (
        CalibrateRequest.model_validate({**shared, "out": folder / "spreads.npz"}),
        BuildRequest.model_validate(
            {
                **shared,
                "out": folder / "variant.onnx",
                "recipe": recipe,
                "spreads": folder / "spreads.npz",
                "output": model.graph.output[-1].name,
            }
        ),
    )


def test_a_variant_is_a_third_of_a_small_model_and_says_the_same(
    tmp_path: Path,
) -> None:
    model = convolutions()
    first, second = requests(tmp_path, model)

    calibrated = calibrate(first)
    built = build(second)

    variant = onnx.load(second.out)
    assert calibrated.tensors > 10
    assert built.bytes == second.out.stat().st_size
    assert built.treated == {"static": 5}
    assert sqnr(model, variant, IMAGES) > 28


def test_the_steps_give_the_same_bytes_again(tmp_path: Path) -> None:
    first, second = requests(tmp_path, convolutions())
    found = []

    for _ in range(2):
        calibrate(first)
        build(second)
        found.append((first.out.read_bytes(), second.out.read_bytes()))

    assert found[0] == found[1]


def test_repaired_integers_are_written_in_either_format(tmp_path: Path) -> None:
    model = convolutions()
    recipe = replace(STATIC, repairs=("bias",), format="qoperator")
    first, second = requests(tmp_path, model, recipe)
    calibrate(first)

    build(second)

    variant = onnx.load(second.out)
    assert "QLinearConv" in {node.op_type for node in variant.graph.node}
    assert sqnr(model, variant, IMAGES) > 25


def test_names_stay_for_whoever_needs_them(tmp_path: Path) -> None:
    first, second = requests(tmp_path, convolutions())
    calibrate(first)

    build(second.model_copy(update={"names": True}))

    names = {node.name for node in onnx.load(second.out).graph.node}
    assert {"0_Conv", "11_Gemm"} <= names


def test_the_judged_output_comes_first(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["side"]),
        helper.make_node("GlobalAveragePool", ["side"], ["score"]),
    ]
    model = graph(
        nodes,
        {"w": normal(1, 32, 3, 3, 3)},
        inputs={"x": ["n", 3, 16, 16]},
        outputs={"side": ["n", 32, 14, 14], "score": ["n", 32, 1, 1]},
    )
    first, second = requests(tmp_path, model)
    calibrate(first)

    build(second)

    outputs = [value.name for value in onnx.load(second.out).graph.output]
    assert outputs == ["score", "side"]


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    shape: Shape = ["n", 3, 16, 16]
    model = graph([node], {}, inputs={"x": shape}, outputs={"y": shape})
    first, second = requests(tmp_path, model)
    calibrate(first)

    with pytest.raises(RejectedError) as refused:
        build(second)

    assert refused.value.code is Code.MODEL_INVALID
    assert "finds nothing to quantize" in str(refused.value)


def test_samples_of_different_shapes_are_calibrated_one_by_one(tmp_path: Path) -> None:
    model = convolutions()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "size"
    del model.graph.value_info[:]
    first, _ = requests(tmp_path, model)
    with Writer(tmp_path / "samples") as writer:
        for size in (12, 16, 20):
            writer.add({"x": normal(size, 1, 3, size, size)})

    calibrate(first)

    assert load_spreads(first.out)["x"].low < -2


def test_weights_beside_the_model_are_found(tmp_path: Path) -> None:
    first, second = requests(tmp_path, convolutions())
    calibrate(first)
    build(second)
    inline = second.out.read_bytes()
    onnx.save(
        onnx.load(first.model),
        first.model,
        save_as_external_data=True,
        location="weights.data",
        size_threshold=0,
    )

    calibrate(first)
    build(second)

    assert second.out.read_bytes() == inline


def test_a_note_says_what_is_a_mask(tmp_path: Path) -> None:
    model = attention()
    product = next(n for n in model.graph.node if n.output[0] == "q0")
    product.input[0] = "masked"
    for node in model.graph.node:
        if node.output[0] == "k":
            node.input[0] = "masked"
    huge = helper.make_node("Mul", ["x", "huge"], ["masked"], name="huge")
    model.graph.node.insert(0, huge)
    factor = onnx.numpy_helper.from_array(np.array([1e6], np.float32), "huge")
    model.graph.initializer.append(factor)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "m.onnx")
    store(tmp_path / "samples", {"x": normal(0, 4, 8, 64)})
    (tmp_path / "scratch").mkdir()

    stored = Stored.open(tmp_path / "samples")
    spreads = observe(tmp_path / "m.onnx", stored, 4, tmp_path / "scratch")

    assert not spreads["masked"].quantizable
    assert spreads["x"].quantizable
    assert run(model, {"x": normal(0, 4, 8, 64)}).shape == (4, 8, 64)


@pytest.mark.parametrize(
    ("kind", "scheme", "form"),
    [
        ("static", "u8s8", "qdq"),
        ("static", "u8s8", "qoperator"),
        ("static", "s8s8", "qdq"),
        ("dynamic", "u8s8", "qdq"),
        ("weights", "u8s8", "qdq"),
    ],
)
def test_what_opens_with_precise_shares_no_signed_constants(
    kind: Kind, scheme: Scheme, form: Format, tmp_path: Path
) -> None:
    model = attention()
    model.graph.node[2].input[1] = "wq"
    samples = {"x": normal(0, 16, 8, 64)}
    recipe = replace(STATIC, kind=kind, scheme=scheme, format=form)
    first, second = requests(tmp_path, model, recipe, samples)
    calibrate(first)

    build(second.model_copy(update={"precise": True, "fold": False}))

    made = onnx.load(second.out)
    session = open_session(second.out, Session(precise=True))
    assert session.run(None, {"x": samples["x"][:1]})
    assert sqnr(model, made, samples) > 20


@pytest.mark.parametrize("kind", ["static", "dynamic", "weights", "weights4"])
def test_a_graph_that_becomes_its_variant_gives_the_same_bytes(kind: Kind) -> None:
    model, recipe = attention(), replace(STATIC, kind=kind)
    spreads = spreads_of(model, {"x": normal(0, 16, 8, 64)})
    apart = make(model, spreads, recipe).model.SerializeToString(deterministic=True)

    made = make(model, spreads, recipe, keep=False).model

    assert made is model
    assert made.SerializeToString(deterministic=True) == apart
