"""Repairs leave models that nobody tuned them for as they are."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from quarterdeck_controller.optimize.data.stored import Stored, Writer
from quarterdeck_controller.optimize.intake.prepare import prepare
from quarterdeck_controller.optimize.repair.observe import open_graph
from quarterdeck_controller.optimize.repair.repair import mend
from quarterdeck_controller.optimize.repair.rules import find_channels
from quarterdeck_controller.optimize.repair.scaling import scale_channels
from quarterdeck_controller.optimize.steps import PrepareRequest
from tests.support.random_graphs import random_case


def _prepared(seed: int, folder: Path) -> tuple[onnx.ModelProto, Stored, int]:
    model, samples = random_case(seed)
    path, out = folder / "model.onnx", folder / "prepared.onnx"
    onnx.save(model, path)
    with Writer(folder / "samples") as writer:
        writer.add(samples)
    request = PrepareRequest(model=path, out=out, samples=folder / "samples")
    batch = prepare(request).batch
    return onnx.load(out), Stored.open(folder / "samples"), batch


@pytest.mark.parametrize("seed", range(16))
def test_free_channels_may_have_any_scale(tmp_path: Path, seed: int) -> None:
    model, stored, _ = _prepared(seed, tmp_path)
    scaled = onnx.ModelProto()
    scaled.CopyFrom(model)
    channels = find_channels(scaled.graph)
    for bound in channels.bounds:
        channels.pin(bound.ids)
    drawn = np.exp(np.random.default_rng(seed).uniform(-1, 1, len(channels.roots())))
    scales = np.where(channels.free(), drawn, 1.0)[channels.roots()]
    scale_channels(scaled.graph, channels, scales)
    onnx.checker.check_model(scaled)

    feed = stored.sample(0)
    for wanted, found in zip(
        open_graph(model).run(None, feed),
        open_graph(scaled).run(None, feed),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("seed", range(16, 24))
def test_no_repair_has_to_be_undone(tmp_path: Path, seed: int) -> None:
    model, stored, batch = _prepared(seed, tmp_path)
    _, _, notes = mend(model, ("equalize", "smooth"), stored, batch=batch)

    assert not [note for note in notes if "undone" in note]
