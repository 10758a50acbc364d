"""Whatever graph is quantized by whatever recipe loads, and says nearly the same."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.intake.prepare import prepare
from quarterdeck_controller.optimize.quantize.calibrate import observe
from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.quantize.shrink import shrink
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.steps import PrepareRequest
from tests.support.quantizable import run, store
from tests.support.random_graphs import cases

LEAST_DB = {"fp16": 30, "weights": 20, "weights4": 3, "dynamic": 10, "static": 5}
ONE_SCALE_DB = 0
"""Channels of random weights differ by hundreds of times: with one scale for all of a
tensor the small ones are lost, and only what is larger than the noise is held to."""

recipes = st.builds(
    Recipe,
    kind=st.sampled_from(sorted(LEAST_DB)),
    scheme=st.sampled_from(["u8s8", "u8u8", "s8s8"]),
    symmetric=st.booleans(),
    per_channel=st.booleans(),
    reduce_range=st.booleans(),
    calibration=st.sampled_from(["minmax", "percentile", "mse"]),
    scope=st.sampled_from(["heavy", "elementwise"]),
    format=st.sampled_from(["qdq", "qoperator"]),
    rest=st.sampled_from(["float", "half", "weights"]),
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(cases(), recipes, st.booleans())
def test_a_variant_loads_and_differs_by_quantization_only(
    case: tuple[onnx.ModelProto, dict[str, Any]], recipe: Recipe, fold: bool
) -> None:
    model, samples = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        stored = store(folder / "s", samples)
        out = folder / "p.onnx"
        request = PrepareRequest(model=folder / "m.onnx", out=out, samples=folder / "s")
        batch = prepare(request).batch
        (folder / "scratch").mkdir()
        spreads = observe(out, stored, batch, folder / "scratch")
        prepared = onnx.load(out)
        feed = stored.sample(0)

        made = make(prepared, spreads, recipe, fold=fold)
        again = make(prepared, spreads, recipe, fold=fold)

    one, other = (
        shrink(m.model).SerializeToString(deterministic=True) for m in (made, again)
    )
    assert one == other
    onnx.checker.check_model(made.model)
    expected, found = run(prepared, feed), run(made.model, feed)
    assert found.shape == expected.shape
    assume(expected.dtype == np.float32 and np.abs(expected).max(initial=0) < 1e6)
    signal = (expected.astype(np.float64) ** 2).sum()
    noise = ((expected.astype(np.float64) - found) ** 2).sum()
    least = LEAST_DB[recipe.kind]
    if not recipe.per_channel and recipe.kind != "fp16":
        least = min(least, ONE_SCALE_DB)
    assert noise <= signal * 10 ** (-least / 10) + 1e-4
