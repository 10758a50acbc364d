"""The tensors whose values fit their range worst, as histograms to look at. Pure."""

from collections.abc import Sequence
from math import log10

import numpy as np

from quarterdeck_controller.optimize.quantize.spread import (
    LEVELS,
    Array,
    Spread,
    Spreads,
    take_range,
)
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.candidate import Candidate
from quarterdeck_controller.optimize.search.story import Histogram

BARS = 64
CLEAR_DB = 120.0
"""What does not differ at all is written as this."""


def worst_histograms(
    spreads: Spreads, recipe: Recipe, *, most: int = 6
) -> tuple[Histogram, ...]:
    """Return the tensors that eight bits over their taken range tell worst.

    How badly is the ratio of the values' power to that of the error which rounding and
    clipping make, from the histogram alone: a twelfth of a step squared for what lies
    within the range, the squared distance to it for what does not. That a tensor
    quantizes badly does not mean that the output suffers: see the sensitivity.

    Args:
        spreads: Of every tensor, as calibration saw it.
        recipe: One that quantizes activations with calibrated ranges; others have no
            ranges and so no histograms.
        most: How many.
    """
    if not {"static", "wide"} & recipe.treatments:
        return ()
    found = [
        _histogram(name, spread, recipe)
        for name, spread in spreads.items()
        if spread.quantizable and spread.counts.sum()
    ]
    return tuple(sorted(found, key=lambda one: (one.sqnr_db, one.tensor))[:most])


def recipe_to_show(
    chosen: Recipe | None, candidates: Sequence[Candidate]
) -> Recipe | None:
    """Return the recipe whose ranges are worth a look: the chosen, or the last static.

    Where weights alone were quantized in the end, the ranges that did not work are
    what people want to see.
    """
    tried = [one.recipe for one in candidates if one.recipe.kind == "static"]
    if chosen is not None and chosen.kind == "static":
        return chosen
    return tried[-1] if tried else None


def _histogram(name: str, spread: Spread, recipe: Recipe) -> Histogram:
    low, high = take_range(spread, recipe.calibration, symmetric=recipe.symmetric)
    if recipe.symmetric:
        high = max(-low, high)
        low = -high
    edges, counts = _coarser(spread)
    return Histogram(
        tensor=name,
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        taken=(float(low), float(high)),
        sqnr_db=round(_sqnr_db(spread, low, high), 2),
    )


def _sqnr_db(spread: Spread, low: float, high: float) -> float:
    centres = (spread.edges[:-1] + spread.edges[1:]) / 2
    counts = spread.counts.astype(np.float64)
    past = centres - np.clip(centres, low, high)
    step = (high - low) / LEVELS
    rounding = np.minimum(step**2 / 12, centres**2)  # at worst it becomes zero
    error = np.where(past == 0, rounding, past**2)
    signal, noise = float(counts @ centres**2), float(counts @ error)
    if signal <= 0 or noise <= 0:
        return CLEAR_DB
    return min(10 * log10(signal / noise), CLEAR_DB)


def _coarser(spread: Spread) -> tuple[Array, Array]:
    """Return at most ``BARS`` bins over those that hold anything."""
    held = np.flatnonzero(spread.counts)
    first, last = int(held[0]), int(held[-1]) + 1
    together = -(-(last - first) // BARS)
    count = -(-(last - first) // together)
    padded = np.zeros(count * together, np.int64)
    padded[: last - first] = spread.counts[first:last]
    edges = spread.start + spread.width * (first + together * np.arange(count + 1))
    return edges, padded.reshape(count, together).sum(axis=1)
