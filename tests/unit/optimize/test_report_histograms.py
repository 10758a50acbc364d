import subprocess
import sys

import numpy as np
import pytest

from quarterdeck_controller.optimize.quantize.spread import Spread
from quarterdeck_controller.optimize.recipe import Kind, Recipe
from quarterdeck_controller.optimize.report.histograms import (
    recipe_to_show,
    worst_histograms,
)
from tests.support.candidates import candidate

STATIC = Recipe("static", calibration="minmax")


def spread_of(values: list[float], width: float = 0.25) -> Spread:
    found = np.array(values)
    start = np.floor(found.min() / width) * width
    bins = np.floor((found - start) / width).astype(int)
    counts = np.bincount(bins)
    return Spread(float(found.min()), float(found.max()), counts, start, width)


def bell(size: int = 5000) -> list[float]:
    return [float(x) for x in np.random.default_rng(0).normal(size=size)]


def test_the_tensor_with_outliers_comes_first() -> None:
    spreads = {"calm": spread_of(bell()), "wild": spread_of([*bell(), 400.0])}

    found = worst_histograms(spreads, STATIC)

    assert [one.tensor for one in found] == ["wild", "calm"]
    assert found[0].sqnr_db < found[1].sqnr_db - 15


def test_a_histogram_keeps_every_value_in_few_bars() -> None:
    spreads = {"wild": spread_of([*bell(), 400.0])}

    (found,) = worst_histograms(spreads, STATIC)

    assert len(found.counts) <= 64
    assert len(found.edges) == len(found.counts) + 1
    assert sum(found.counts) == 5001
    assert found.edges[0] <= -3
    assert found.edges[-1] >= 400
    assert found.taken == pytest.approx((min(bell()), 400.0))


def test_the_estimate_is_that_of_the_quantized_values() -> None:
    values = np.array(bell(20_000))
    (found,) = worst_histograms({"x": spread_of(values.tolist(), 1 / 64)}, STATIC)

    step = (values.max() - values.min()) / 255
    error = np.round(values / step) * step - values

    true_db = 10 * np.log10((values**2).sum() / (error**2).sum())
    assert found.sqnr_db == pytest.approx(true_db, abs=0.5)


def test_masks_and_tensors_of_zeros_alone_are_left_out() -> None:
    nothing = Spread(0.0, 0.0, np.zeros(4, int), 0.0, 0.25, zeros=9)
    mask = Spread(-1e9, 0.0, np.array([3]), -1e9, 2.0**20)

    assert worst_histograms({"nothing": nothing, "mask": mask}, STATIC) == ()


KINDS: tuple[Kind, ...] = ("weights", "dynamic", "fp16")


@pytest.mark.parametrize("kind", KINDS)
def test_recipes_without_ranges_have_no_histograms(kind: Kind) -> None:
    recipe = Recipe(kind)

    assert worst_histograms({"x": spread_of(bell())}, recipe) == ()


def test_a_symmetric_range_is_shown_as_it_is_quantized() -> None:
    recipe = Recipe("static", symmetric=True, calibration="mse")

    (found,) = worst_histograms({"x": spread_of(bell())}, recipe)

    assert found.taken[0] == -found.taken[1]


def test_the_ranges_that_did_not_work_are_shown_when_weights_won() -> None:
    static = candidate(STATIC)
    weights = Recipe("weights")

    assert recipe_to_show(weights, [candidate(weights), static]) == STATIC
    assert recipe_to_show(STATIC, []) == STATIC
    assert recipe_to_show(None, [candidate(weights)]) is None


def test_the_controller_needs_no_onnx_to_make_them() -> None:
    code = (
        "import sys; import quarterdeck_controller.optimize.report.histograms;"
        "sys.exit('onnx' in sys.modules or 'onnxruntime' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)

    assert done.returncode == 0
