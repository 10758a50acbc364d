"""What was seen of every tensor, and the ranges that follow from it.

A spread is a histogram over bins of a width that is a power of two and whose edges are
multiples of it. When a larger value comes the width doubles and neighbours are added,
without loss: one pass is enough, and the order of the samples does not matter. Zeros
are counted apart: they are many, and every quantization represents them exactly.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize.recipe import Calibration

Array = NDArray[Any]

FORMAT = 1
PERCENTILE = 0.99999
"""The share of the values that a percentile range keeps below its upper end, and
above its lower one."""
LEVELS = 255
FRACTIONS = np.concatenate([np.linspace(1, 0.3, 57), np.geomspace(0.28, 0.004, 39)])
"""Of the full range, what the search for the least squared error tries at each end."""
TOO_LARGE = 8192.0
"""A tensor past this magnitude is a mask (the customary ones are -1e4, -6e4, -1e9 and
-3.4e38), not a signal: eight bits over such a range leave nothing of what is near
zero."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What was seen of one tensor.

    Attributes:
        low: The smallest value, infinite or NaN when one such was seen.
        high: The largest.
        counts: How many values, zeros apart, fell into each bin; empty when the
            values were not finite.
        start: Lower edge of the first bin.
        width: Of a bin.
        zeros: How many zeros there were.
        channel_max: Largest magnitude by channel where that was asked for: the last
            axis of what enters a matrix product, axis 1 of what enters a convolution.
    """

    low: float
    high: float
    counts: Array
    start: float
    width: float
    zeros: int = 0
    channel_max: Array | None = None

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def quantizable(self) -> bool:
        """Whether its values are finite and no mask."""
        return bool(
            np.isfinite([self.low, self.high]).all() and self.largest <= TOO_LARGE
        )

    @property
    def edges(self) -> Array:
        """Edges of the bins, one more than there are counts."""
        return self.start + self.width * np.arange(len(self.counts) + 1)


Spreads = Mapping[str, Spread]


def take_range(
    spread: Spread, how: Calibration, *, symmetric: bool = False
) -> tuple[float, float]:
    """Return the range to quantize; what lies outside is clipped.

    Args:
        spread: Of finite values.
        how: ``minmax`` is all of it, ``percentile`` all but the far ends, and ``mse``
            the one with the least squared error: what is clipped, and a twelfth of a
            step squared for what is not.
        symmetric: The two ends will be made the same distance from zero.
    """
    low, high = min(spread.low, 0.0), max(spread.high, 0.0)
    if how == "minmax" or low == high or not spread.counts.sum():
        return low, high
    if how == "percentile":
        return _percentile(spread, low, high)
    if symmetric:
        return _least_error_symmetric(spread, max(-low, high))
    return _least_error(spread, low, high)


def save_spreads(path: Path, spreads: Spreads) -> None:
    """Write spreads to a ``.npz`` file that ``load_spreads`` reads."""
    found = list(spreads.values())
    with_channels = [n for n, one in enumerate(found) if one.channel_max is not None]
    arrays: dict[str, Array] = {
        "format": np.array(FORMAT),
        "names": _text(json.dumps(list(spreads))),
        "scalars": np.array(
            [[s.low, s.high, s.start, s.width] for s in found], np.float64
        ).reshape(-1, 4),
        "zeros": np.array([s.zeros for s in found], np.int64),
        "counts": _joined([s.counts for s in found], np.int64),
        "count_ends": np.cumsum([len(s.counts) for s in found], dtype=np.int64),
        "with_channels": np.array(with_channels, np.int64),
        "channels": _joined([_channels(found[n]) for n in with_channels], np.float32),
        "channel_ends": np.cumsum(
            [len(_channels(found[n])) for n in with_channels], dtype=np.int64
        ),
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_spreads(path: Path) -> dict[str, Spread]:
    """Return what ``save_spreads`` wrote.

    Raises:
        ValueError: The file is of another version.
    """
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    if int(data["format"]) != FORMAT:
        raise ValueError(f"spreads of format {data['format']} found, {FORMAT} known")
    counts = np.split(data["counts"], data["count_ends"])
    channels = np.split(data["channels"], data["channel_ends"])
    by_number = dict(zip(data["with_channels"].tolist(), channels, strict=False))
    names = json.loads(data["names"].tobytes().decode())
    return {
        name: Spread(
            low=float(low),
            high=float(high),
            counts=counts[n],
            start=float(start),
            width=float(width),
            zeros=int(data["zeros"][n]),
            channel_max=by_number.get(n),
        )
        for n, (name, (low, high, start, width)) in enumerate(
            zip(names, data["scalars"], strict=True)
        )
    }


def _channels(spread: Spread) -> Array:
    return np.empty(0) if spread.channel_max is None else spread.channel_max


def _text(text: str) -> Array:
    return np.frombuffer(text.encode(), np.uint8)


def _joined(parts: list[Array], dtype: type) -> Array:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)


def _percentile(spread: Spread, low: float, high: float) -> tuple[float, float]:
    centres = (spread.edges[:-1] + spread.edges[1:]) / 2
    below = np.cumsum(spread.counts) + spread.zeros * (centres > 0)
    share = below / (spread.counts.sum() + spread.zeros)
    first = int(np.searchsorted(share, 1 - PERCENTILE, side="right"))
    last = int(np.searchsorted(share, PERCENTILE, side="left"))
    last = min(last, len(centres) - 1)
    taken_low = max(low, min(spread.edges[first], 0.0))
    taken_high = min(high, max(spread.edges[last + 1], 0.0))
    return (low, high) if taken_low == taken_high else (taken_low, taken_high)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Count, sum and sum of squares of the values up to each bin."""

    edges: Array
    moments: Array

    @classmethod
    def of(cls, spread: Spread) -> "_Sums":
        centres = (spread.edges[:-1] + spread.edges[1:]) / 2
        counts = spread.counts.astype(np.float64)
        moments = np.cumsum([counts, counts * centres, counts * centres**2], axis=1)
        return cls(spread.edges[1:], np.concatenate([np.zeros((3, 1)), moments], 1))

    def above(self, ends: Array) -> tuple[Array, Array]:
        """Return how many values are past ``ends``, and their squared distance."""
        at = np.searchsorted(self.edges, ends, side="left")
        count, first, second = self.moments[:, -1:] - self.moments[:, at]
        return count, second - 2 * ends * first + ends**2 * count

    def below(self, ends: Array) -> tuple[Array, Array]:
        """Return how many values are under ``ends``, and their squared distance."""
        at = np.searchsorted(self.edges, ends, side="right")
        count, first, second = self.moments[:, at]
        return count, second - 2 * ends * first + ends**2 * count

    @property
    def total(self) -> float:
        return float(self.moments[0, -1])


def _least_error(spread: Spread, low: float, high: float) -> tuple[float, float]:
    lows = low * FRACTIONS if low < 0 else np.zeros(1)
    highs = high * FRACTIONS if high > 0 else np.zeros(1)
    sums = _Sums.of(spread)
    under, cut_low = sums.below(lows)
    over, cut_high = sums.above(highs)
    inside = np.maximum(sums.total - under[:, None] - over[None, :], 0)
    steps = (highs[None, :] - lows[:, None]) / LEVELS
    errors = cut_low[:, None] + cut_high[None, :] + inside * steps**2 / 12
    at = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return float(lows[at[0]]), float(highs[at[1]])


def _least_error_symmetric(spread: Spread, largest: float) -> tuple[float, float]:
    ends = largest * FRACTIONS
    sums = _Sums.of(spread)
    under, cut_low = sums.below(-ends)
    over, cut_high = sums.above(ends)
    steps = 2 * ends / (LEVELS - 1)
    inside = np.maximum(sums.total - under - over, 0)
    best = float(ends[np.argmin(cut_low + cut_high + inside * steps**2 / 12)])
    return -best, best
