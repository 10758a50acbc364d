"""Tuning the integers: closer to float on samples never seen, by the same kernels."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from quarterdeck_controller.optimize.data.stored import Array, Stored, Writer
from quarterdeck_controller.optimize.quantize.calibrate import calibrate
from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.recipe import Recipe, Repair
from quarterdeck_controller.optimize.repair.layers import find_layers
from quarterdeck_controller.optimize.repair.observe import open_graph
from quarterdeck_controller.optimize.repair.tuning import tune
from quarterdeck_controller.optimize.steps import CalibrateRequest
from tests.support.unbalanced import SIDE, block, bottlenecks, noise, sqnr_db

IMAGE = (3, SIDE, SIDE)
WORDS = (10, 32)
BOTH: tuple[Repair, ...] = ("round", "bias")


def _quantized(
    model: onnx.ModelProto, stored: Stored, recipe: Recipe, folder: Path
) -> onnx.ModelProto:
    path, spreads = folder / "model.onnx", folder / "spreads"
    onnx.save(model, path)
    calibrate(CalibrateRequest(model=path, out=spreads, samples=stored.folder, batch=8))
    return make(model, load_spreads(spreads), recipe).model


def _outputs(model: onnx.ModelProto, stored: Stored) -> Array:
    session = open_graph(model)
    return np.concatenate([session.run(None, f)[0] for f in stored.batches(16)])


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("repairs", [("bias",), ("round",), BOTH], ids="-".join)
def test_a_tuned_net_is_closer_to_float_on_samples_never_seen(
    tmp_path: Path, repairs: tuple[Repair, ...], *, per_channel: bool
) -> None:
    stored = noise(tmp_path / "samples", IMAGE)
    fresh = noise(tmp_path / "fresh", IMAGE, seed=9)
    model = bottlenecks(8)
    recipe = Recipe("static", per_channel=per_channel)
    start = _quantized(model, stored, recipe, tmp_path)
    tuned, notes = tune(model, start, repairs, stored, 8)

    wanted = _outputs(model, fresh)
    before = sqnr_db(wanted, _outputs(start, fresh))
    assert sqnr_db(wanted, _outputs(tuned, fresh)) > before + 1
    assert all("fell by" in note for note in notes)
    assert len(notes) == len(repairs)


def test_a_tuned_transformer_block_is_closer_too(tmp_path: Path) -> None:
    stored = noise(tmp_path / "samples", WORDS)
    fresh = noise(tmp_path / "fresh", WORDS, seed=9)
    model = block(outlier=1)
    start = _quantized(model, stored, Recipe("static"), tmp_path)
    tuned, _ = tune(model, start, BOTH, stored, 8)

    wanted = _outputs(model, fresh)
    before = sqnr_db(wanted, _outputs(start, fresh))
    assert sqnr_db(wanted, _outputs(tuned, fresh)) > before


def test_tuning_changes_integers_and_nothing_else(tmp_path: Path) -> None:
    stored = noise(tmp_path / "samples", IMAGE)
    model = bottlenecks(8)
    recipe = Recipe("static", reduce_range=True)
    start = _quantized(model, stored, recipe, tmp_path)
    tuned, _ = tune(model, start, BOTH, stored, 8)

    assert list(tuned.graph.node) == list(start.graph.node)
    changed = [
        (one, other)
        for one, other in zip(
            start.graph.initializer, tuned.graph.initializer, strict=True
        )
        if one != other
    ]
    assert changed
    for one, other in changed:
        assert (one.name, one.data_type, one.dims) == (
            other.name,
            other.data_type,
            other.dims,
        )
    for layer in find_layers(model, tuned):
        assert np.abs(layer.levels()).max() <= 64


def test_the_given_graph_is_not_changed_and_the_answer_is_always_the_same(
    tmp_path: Path,
) -> None:
    stored = noise(tmp_path / "samples", IMAGE)
    model = bottlenecks(8)
    start = _quantized(model, stored, Recipe("static", scheme="u8u8"), tmp_path)
    before = start.SerializeToString(deterministic=True)
    answers = [tune(model, start, BOTH, stored, 8) for _ in range(2)]

    assert start.SerializeToString(deterministic=True) == before
    assert answers[0] == answers[1]


def test_what_does_not_help_held_out_samples_is_not_kept(tmp_path: Path) -> None:
    """Held-out samples of another world: what is learned elsewhere harms there."""
    rng = np.random.default_rng(0)
    with Writer(tmp_path / "samples") as writer:
        for row in range(16):
            scale = 1.0 if row % 3 == 2 else 0.0
            x = scale * rng.normal(size=(1, *IMAGE))
            writer.add({"x": x.astype(np.float32)})
    stored = Stored.open(tmp_path / "samples")
    model = bottlenecks(1)
    start = _quantized(model, stored, Recipe("static"), tmp_path)
    tuned, _ = tune(model, start, BOTH, stored, 8)

    held = [2, 5, 8, 11, 14]
    wanted, plain, found = (
        np.concatenate([open_graph(m).run(None, f)[0] for f in stored.batches(8, held)])
        for m in (model, start, tuned)
    )
    assert sqnr_db(wanted, found) >= sqnr_db(wanted, plain)


def test_too_few_samples_to_hold_some_out_leave_the_graph(tmp_path: Path) -> None:
    stored = noise(tmp_path / "samples", IMAGE, count=7)
    model = bottlenecks(1)
    start = _quantized(model, stored, Recipe("static"), tmp_path)
    tuned, notes = tune(model, start, BOTH, stored, 8)

    assert tuned == start
    assert "7 calibration samples, at least 8" in notes[0]


def test_a_graph_without_integer_weights_is_left(tmp_path: Path) -> None:
    stored = noise(tmp_path / "samples", IMAGE)
    model = bottlenecks(1)
    tuned, notes = tune(model, model, ("bias",), stored, 8)

    assert tuned == model
    assert notes == ("bias found no integer weights",)
