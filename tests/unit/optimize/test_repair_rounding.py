"""Rounding by what weights multiply."""

import numpy as np

from quarterdeck_controller.optimize.data.stored import Array
from quarterdeck_controller.optimize.repair.rounding import round_weights


def _problem(groups: int = 1) -> tuple[Array, Array, Array]:
    """Return weights, inputs that are strongly correlated, and scales."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(groups, 12, 40))
    mixed = rng.normal(size=(groups, 500, 6)) @ rng.normal(size=(groups, 6, 40))
    inputs = mixed + 0.1 * rng.normal(size=mixed.shape)
    scales = np.abs(weights).max(axis=2, keepdims=True) / 7
    return weights, inputs, scales


def _noise(weights: Array, levels: Array, scales: Array, inputs: Array) -> float:
    error = inputs @ np.swapaxes(weights - levels * scales, 1, 2)
    return float((error**2).mean())


def test_products_keep_their_values_better_than_by_the_nearest_level() -> None:
    weights, inputs, scales = _problem()
    moments = np.swapaxes(inputs, 1, 2) @ inputs
    nearest = np.clip(np.rint(weights / scales), -7, 7)
    rounded = round_weights(weights, moments, scales, 7)

    noise = _noise(weights, rounded, scales, inputs)
    assert noise < _noise(weights, nearest, scales, inputs) / 10
    assert np.abs(rounded).max() <= 7


def test_groups_are_rounded_each_by_its_own_inputs() -> None:
    weights, inputs, scales = _problem(groups=3)
    moments = np.swapaxes(inputs, 1, 2) @ inputs
    together = round_weights(weights, moments, scales, 7)
    one = round_weights(weights[1:2], moments[1:2], scales[1:2], 7)

    np.testing.assert_array_equal(together[1:2], one)


def test_inputs_that_were_never_seen_take_the_nearest_level() -> None:
    weights, _, scales = _problem()
    rounded = round_weights(weights, np.zeros((1, 40, 40)), scales, 7)

    np.testing.assert_array_equal(rounded, np.rint(weights / scales))
