"""Equalization and smoothing win back what unequal channels cost."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quarterdeck_controller.optimize.data.stored import Array, Stored, Writer
from quarterdeck_controller.optimize.quantize.calibrate import calibrate
from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.recipe import Recipe, Repair
from quarterdeck_controller.optimize.repair.observe import open_graph, save_graph
from quarterdeck_controller.optimize.repair.repair import mend, repair
from quarterdeck_controller.optimize.steps import CalibrateRequest, RepairRequest
from tests.support.unbalanced import SIDE, block, bottlenecks, noise, sqnr_db

IMAGE = (3, SIDE, SIDE)
WORDS = (10, 32)
COARSE = Recipe("static", per_channel=False)


def _outputs(model: onnx.ModelProto, stored: Stored) -> Array:
    session = open_graph(model)
    found = [session.run(None, feed)[0] for feed in stored.batches(16)]
    return np.concatenate(found)


def _quantized_db(
    model: onnx.ModelProto, stored: Stored, recipe: Recipe, folder: Path
) -> float:
    """Return how close the recipe's variant comes to float."""
    folder.mkdir()
    path, spreads = folder / "model.onnx", folder / "spreads"
    onnx.save(model, path)
    calibrate(CalibrateRequest(model=path, out=spreads, samples=stored.folder, batch=8))
    variant = make(model, load_spreads(spreads), recipe).model
    return sqnr_db(_outputs(model, stored), _outputs(variant, stored))


def _mended(
    model: onnx.ModelProto, repairs: tuple[Repair, ...], stored: Stored
) -> onnx.ModelProto:
    return mend(model, repairs, stored, batch=8)[0]


def test_equalization_wins_back_what_unequal_bottlenecks_cost(tmp_path: Path) -> None:
    stored = noise(tmp_path / "samples", IMAGE)
    even, uneven = bottlenecks(1), bottlenecks(8)
    mended = _mended(uneven, ("equalize",), stored)

    best = _quantized_db(even, stored, COARSE, tmp_path / "even")
    lost = _quantized_db(uneven, stored, COARSE, tmp_path / "uneven")
    found = _quantized_db(mended, stored, COARSE, tmp_path / "mended")
    assert best - lost > 10
    assert found > best - 2
    np.testing.assert_allclose(
        _outputs(mended, stored), _outputs(uneven, stored), rtol=1e-3, atol=1e-4
    )


def test_equalization_helps_scales_by_channel_as_well(tmp_path: Path) -> None:
    stored = noise(tmp_path / "samples", IMAGE)
    uneven, recipe = bottlenecks(8), Recipe("static")
    mended = _mended(uneven, ("equalize",), stored)

    lost = _quantized_db(uneven, stored, recipe, tmp_path / "uneven")
    assert _quantized_db(mended, stored, recipe, tmp_path / "mended") > lost + 10


def test_a_balanced_net_is_left_as_it_is(tmp_path: Path) -> None:
    stored = noise(tmp_path / "samples", IMAGE)
    mended, changed, notes = mend(bottlenecks(1), ("equalize",), stored, batch=8)

    assert (changed, notes) == (0, ())
    assert mended == bottlenecks(1)


@pytest.mark.parametrize("post", [False, True], ids=["before", "after"])
def test_smoothing_wins_back_what_outlier_channels_cost(
    tmp_path: Path, *, post: bool
) -> None:
    """Whether the residual branches off before the norm, or after it."""
    stored = noise(tmp_path / "samples", WORDS)
    model = block(post=post)
    mended = _mended(model, ("smooth",), stored)

    lost = _quantized_db(model, stored, Recipe("static"), tmp_path / "plain")
    found = _quantized_db(mended, stored, Recipe("static"), tmp_path / "smooth")
    assert found > lost + 10
    np.testing.assert_allclose(
        _outputs(mended, stored), _outputs(model, stored), rtol=1e-3, atol=1e-4
    )


def test_smoothing_adds_an_operator_only_where_the_norm_feeds_more(
    tmp_path: Path,
) -> None:
    stored = noise(tmp_path / "samples", WORDS)
    before = _mended(block(), ("smooth",), stored)
    after = _mended(block(post=True), ("smooth",), stored)

    assert len(before.graph.node) == len(block().graph.node)
    assert [n.op_type for n in after.graph.node].count("Mul") == 1


def test_a_clip_that_is_reached_is_not_scaled_over(tmp_path: Path) -> None:
    model = bottlenecks(8)
    six = next(t for t in model.graph.initializer if t.name == "six")
    six.CopyFrom(numpy_helper.from_array(np.array(0.05, np.float32), "six"))
    stored = noise(tmp_path / "samples", IMAGE)
    mended = _mended(model, ("equalize",), stored)

    assert [n.op_type for n in mended.graph.node].count("Clip") == 6
    np.testing.assert_allclose(
        _outputs(mended, stored), _outputs(model, stored), rtol=1e-3, atol=1e-4
    )


def test_a_clip_that_is_never_reached_becomes_a_relu_where_it_is_in_the_way(
    tmp_path: Path,
) -> None:
    model = bottlenecks(8)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    six = numpy_helper.from_array(np.array(1e4, np.float32), "six")
    tensors["six"].CopyFrom(six)
    by = np.geomspace(1 / 40, 40, 48).astype(np.float32)
    for name, factor in (("e0", by), ("e0_b", by), ("d0", 1 / by)):
        held = numpy_helper.to_array(tensors[name])
        shaped = factor.reshape(-1, *(1,) * (held.ndim - 1))
        tensors[name].CopyFrom(numpy_helper.from_array(held * shaped, name))
    stored = noise(tmp_path / "samples", IMAGE)
    mended = _mended(model, ("equalize",), stored)

    kinds = {node.name: node.op_type for node in mended.graph.node}
    assert kinds["e0_r_op"] == "Relu"
    assert kinds["d2_r_op"] == "Clip"
    np.testing.assert_allclose(
        _outputs(mended, stored), _outputs(model, stored), rtol=1e-3, atol=1e-4
    )


def test_a_repair_that_changes_the_function_is_undone(tmp_path: Path) -> None:
    """Here, for all that it changes: not even rounding may differ."""
    stored = noise(tmp_path / "samples", IMAGE)
    wrong = bottlenecks(8)
    checked = mend(wrong, ("equalize",), stored, batch=8, equal=0.0)

    assert checked[1] == 0
    assert checked[0] == wrong
    assert "equalize was undone" in checked[2][0]


def test_the_step_writes_the_same_bytes_every_time(tmp_path: Path) -> None:
    noise(tmp_path / "samples", IMAGE)
    onnx.save(bottlenecks(8), tmp_path / "model.onnx")
    answers = [
        repair(
            RepairRequest(
                model=tmp_path / "model.onnx",
                out=tmp_path / name,
                repairs=("equalize", "smooth", "bias"),
                samples=tmp_path / "samples",
                batch=8,
            )
        )
        for name in ("one.onnx", "two.onnx")
    ]

    assert answers[0] == answers[1]
    assert answers[0].changed > 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_samples_of_different_shapes_are_taken_one_by_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with Writer(tmp_path / "samples") as writer:
        for length in (4, 9, 7):
            shape = (1, length, WORDS[1])
            writer.add({"x": rng.normal(size=shape).astype(np.float32)})
    stored = Stored.open(tmp_path / "samples")

    assert mend(block(), ("smooth",), stored, batch=8)[1] > 0


def test_a_large_graph_has_its_weights_beside_it(tmp_path: Path) -> None:
    model = bottlenecks(1)
    save_graph(model, tmp_path / "large.onnx", large=1000)
    first = (tmp_path / "large.onnx.data").read_bytes()
    save_graph(model, tmp_path / "large.onnx", large=1000)

    assert (tmp_path / "large.onnx.data").read_bytes() == first
    assert (tmp_path / "large.onnx").stat().st_size < len(first)
    stored = noise(tmp_path / "samples", IMAGE, count=4)
    read = onnx.load(tmp_path / "large.onnx")
    np.testing.assert_array_equal(_outputs(read, stored), _outputs(model, stored))
    assert model == bottlenecks(1)
