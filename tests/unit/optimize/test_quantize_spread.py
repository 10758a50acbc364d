"""Spreads and the ranges that follow from them; grids; shrinking."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quarterdeck_controller.optimize.quantize.calibrate import _Seen
from quarterdeck_controller.optimize.quantize.integers import (
    activation_grid,
    quantize_bias,
    scales_for_bias,
)
from quarterdeck_controller.optimize.quantize.shrink import shrink
from quarterdeck_controller.optimize.quantize.spread import (
    Array,
    Spread,
    load_spreads,
    save_spreads,
    take_range,
)
from tests.support.quantizable import convolutions, graph, normal, run, spreads_of


def spread_of(*arrays: Array, axis: int | None = None) -> Spread:
    seen = _Seen(axis)
    for array in arrays:
        seen.add(array.astype(np.float32))
    return seen.spread()


def test_the_order_of_the_samples_does_not_matter() -> None:
    parts = [normal(n, 500, scale=10.0 ** (n - 2)) for n in range(5)]

    one, other = spread_of(*parts), spread_of(*reversed(parts))

    assert np.array_equal(one.counts, other.counts)
    assert (one.low, one.high, one.start) == (other.low, other.high, other.start)


def test_every_value_is_counted_in_its_bin() -> None:
    values = np.array([-3, -1.5, 0, 0, 0.25, 4], np.float32)

    found = spread_of(values)

    assert found.zeros == 2
    assert found.counts.sum() == 4
    assert found.edges[0] <= -3
    assert found.edges[-1] >= 4


def test_minmax_takes_all_and_zero() -> None:
    assert take_range(spread_of(np.array([2.0, 5.0])), "minmax") == (0, 5)


def test_percentile_leaves_out_what_is_far_and_rare() -> None:
    values = np.concatenate([np.full(4, 1000.0), normal(1, 16000)])

    low, high = take_range(spread_of(*[values] * 50), "percentile")

    assert high == 1000  # one in four thousand is not rare enough
    rare = [normal(n, 16000) for n in range(20)]
    assert take_range(spread_of(np.array([1000.0]), *rare), "percentile")[1] < 10
    assert low < -3


def test_the_least_error_clips_an_outlier_but_not_a_plain_range() -> None:
    plain = np.random.default_rng(0).uniform(-1, 1, 10000)

    clipped = take_range(spread_of(np.array([60.0]), *[normal(0, 16000)] * 200), "mse")
    whole = take_range(spread_of(plain), "mse")

    assert clipped[1] < 10
    assert whole == pytest.approx((plain.min(), plain.max()), rel=0.03)


def test_a_symmetric_range_is_as_long_on_both_sides() -> None:
    low, high = take_range(spread_of(np.abs(normal(0, 9000))), "mse", symmetric=True)

    assert low == -high


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, -1e4, 65504.0])
def test_masks_and_what_is_not_finite_cannot_be_quantized(value: float) -> None:
    found = spread_of(np.array([value, 1.0]), np.array([2.0]))

    assert not found.quantizable


def test_spreads_are_read_as_they_were_written(tmp_path: Path) -> None:
    spreads = {
        "a": spread_of(normal(0, 4, 7), axis=1),
        "b/c:0": spread_of(np.array([np.nan])),
        "d": spread_of(np.zeros(3)),
    }

    save_spreads(tmp_path / "s.npz", spreads)
    found = load_spreads(tmp_path / "s.npz")

    assert list(found) == list(spreads)
    assert np.array_equal(found["a"].counts, spreads["a"].counts)
    assert found["a"].channel_max is not None
    assert found["a"].channel_max.shape == (7,)
    assert np.isnan(found["b/c:0"].low)
    assert found["d"].zeros == 3


def test_spreads_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_spreads(tmp_path / name, {"a": spread_of(normal(0, 99))})

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_channels_are_watched_at_the_axis_of_the_product() -> None:
    model = convolutions()

    spreads = spreads_of(model, {"x": normal(0, 9, 3, 16, 16)})

    maxima = {name: s.channel_max for name, s in spreads.items()}
    assert maxima["x"] is not None
    assert maxima["f"] is not None
    assert maxima["x"].shape == (3,)
    assert maxima["f"].shape == (64,)
    assert maxima["y"] is None


def test_batches_do_not_change_the_extremes() -> None:
    model, feed = convolutions(), {"x": normal(0, 10, 3, 16, 16)}

    one, many = spreads_of(model, feed, batch=1), spreads_of(model, feed, batch=7)

    assert {k: s.low for k, s in one.items()} == pytest.approx(
        {k: s.low for k, s in many.items()}, rel=1e-4
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_is_on_every_grid(dtype: str, symmetric: bool) -> None:
    for low, high in ((0, 6), (-3, 0), (-1, 1), (-0.1, 7.3), (0, 0), (-1e-30, 0)):
        grid = activation_grid(low, high, dtype, symmetric=symmetric)

        zero = grid.quantize(np.zeros(1, np.float32)).astype(int)
        assert (zero - grid.zero) * grid.scale == 0
        assert grid.scale > 0


def test_a_range_from_zero_starts_at_the_lowest_level() -> None:
    grid = activation_grid(0, 6.0, "uint8")

    assert grid.zero == 0
    assert np.float32(255) * np.float32(grid.scale) <= np.float32(6)


def test_a_bias_fits_32_bits_after_its_scale_was_enlarged() -> None:
    bias, scales = np.array([5, -3], np.float32), np.array([1e-10, 0.01], np.float32)

    enlarged = scales_for_bias(scales, bias, 0.02)
    levels, units = quantize_bias(bias, 0.02, enlarged)

    assert enlarged[1] == scales[1]
    assert levels * units == pytest.approx(bias, rel=1e-3)


def test_shrinking_keeps_what_is_public_and_says_the_same() -> None:
    nodes = [
        onnx.helper.make_node("Add", ["x", "one"], ["a"], doc_string="why"),
        onnx.helper.make_node("Mul", ["a", "same"], ["y"]),
    ]
    held = {"one": normal(0, 40), "same": normal(0, 40), "unused": normal(1, 400)}
    shapes: dict[str, Any] = {"inputs": {"x": ["n", 40]}, "outputs": {"y": ["n", 40]}}
    model = graph(nodes, held, **shapes)
    model.metadata_props.add(key="labels", value="cat,dog")
    feed = {"x": normal(2, 3, 40)}
    expected = run(model, feed)

    small = shrink(model)

    assert [tensor.name for tensor in small.graph.initializer] == ["_0"]
    assert small.metadata_props[0].value == "cat,dog"
    assert [v.name for v in (*small.graph.input, *small.graph.output)] == ["x", "y"]
    assert np.array_equal(run(small, feed), expected)
