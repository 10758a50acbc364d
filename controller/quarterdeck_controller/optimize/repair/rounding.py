"""Round weights so that the products keep their values, not the weights theirs.

Rounding each weight to the nearest level is not best for the product: errors of
weights that see correlated inputs can cancel. Frantar et al. 2022 (GPTQ, arXiv
2210.17323, after optimal brain surgeon) round one input after the other and correct the
weights not yet rounded by the inverse of the inputs' second moments; the aim is that of
AdaRound (Nagel et al. 2020, arXiv 2004.10568) without gradients. Everything is pure.
"""

import numpy as np

from quarterdeck_controller.optimize.repair.graph import Array

DAMPING = 0.01
"""Of the mean second moment, added to each: inputs that were never seen."""
BLOCK = 128
"""Inputs after which corrections are carried to all that follow."""


def round_weights(weights: Array, moments: Array, scales: Array, limit: int) -> Array:
    """Return the levels of weights, as integers.

    Args:
        weights: ``(groups, outputs, inputs)`` in float.
        moments: Second moments of the inputs, ``(groups, inputs, inputs)``.
        scales: Of a level, ``(groups, outputs, 1)``.
        limit: The largest magnitude of a level.
    """
    groups, _, width = weights.shape
    order = np.argsort(-np.einsum("gii->gi", moments), axis=1, kind="stable")
    rest = np.take_along_axis(weights / scales, order[:, None], 2)
    upper = _inverse_root(moments, order)
    levels = np.zeros_like(rest)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = np.zeros((groups, rest.shape[1], end - start))
        for at in range(start, end):
            column = rest[:, :, at]
            levels[:, :, at] = np.clip(np.rint(column), -limit, limit)
            error = (column - levels[:, :, at]) / upper[:, at, at, None]
            inside = upper[:, at, at:end]
            rest[:, :, at:end] -= error[:, :, None] * inside[:, None]
            errors[:, :, at - start] = error
        rest[:, :, end:] -= errors @ upper[:, start:end, end:]
    back = np.argsort(order, axis=1, kind="stable")
    found: Array = np.take_along_axis(levels, back[:, None], 2).astype(np.int32)
    return found


def _inverse_root(moments: Array, order: Array) -> Array:
    """Return the upper Cholesky factor of the inverse of the moments, reordered."""
    sorted_rows = np.take_along_axis(moments, order[:, :, None], 1)
    both = np.take_along_axis(sorted_rows, order[:, None], 2).astype(np.float64)
    mean = np.einsum("gii->g", both) / both.shape[1]
    extra = DAMPING * np.where(mean > 0, mean, 1.0)
    both += extra[:, None, None] * np.eye(both.shape[1])
    lower = np.linalg.cholesky(np.linalg.inv(both))
    return np.swapaxes(lower, 1, 2)
