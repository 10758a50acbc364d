"""Find the range of every tensor to be quantized, from streamed samples.

Two passes keep memory flat in the number of samples: the first finds the extremes, the
second fills one histogram a tensor, from which any way of taking a range follows. Runs
in a child.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from quarterdeck_controller.optimize.recipe import Calibration
from quarterdeck_controller.optimize.session import Array, Feed, open_session

BINS = 2048
MAX_VALUES = 1 << 16
"""Values of one tensor and batch that enter the histogram, evenly spaced; the extremes
are taken over all."""
PERCENTILE = 0.9999
SHARES = (1.0, 0.99999, 0.9999, 0.999, 0.99)
LEVELS = 255
TINY = 1e-38


@dataclass(frozen=True, slots=True)
class Spread:
    """What was seen of one tensor."""

    low: float
    high: float
    counts: Array

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))


def observe(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]
) -> dict[str, Spread]:
    """Return what ``feeds`` make of the tensors called ``names``."""
    session = open_session(_exposed(model, names), quick=True)
    low = dict.fromkeys(names, np.inf)
    high = dict.fromkeys(names, -np.inf)

    def arrays() -> Iterator[tuple[str, Array]]:
        for feed in feeds:
            yield from zip(names, session.run(list(names), feed), strict=True)

    for name, array in arrays():
        if array.size:
            low[name] = min(low[name], float(array.min()))
            high[name] = max(high[name], float(array.max()))
    seen = [name for name in names if low[name] <= high[name]]
    counts = {name: np.zeros(BINS, np.int64) for name in seen}
    for name, array in arrays():
        if name in counts and np.isfinite([low[name], high[name]]).all():
            counts[name] += _histogram(array, low[name], high[name])
    return {name: Spread(low[name], high[name], counts[name]) for name in seen}


def take_range(spread: Spread, how: Calibration) -> tuple[float, float]:
    """Return the range to quantize; what lies outside is clipped. Pure."""
    if how == "minmax" or spread.low == spread.high:
        return spread.low, spread.high
    if how == "percentile":
        return _cut(spread, PERCENTILE)
    ranges = [_cut(spread, share) for share in SHARES]
    return min(ranges, key=lambda found: _squared_error(spread, found))


def ranges(
    spreads: Mapping[str, Spread], how: Calibration
) -> dict[str, tuple[Array, Array]]:
    """Return every tensor's range as the runtime's quantizer takes it."""
    found = {name: take_range(spread, how) for name, spread in spreads.items()}
    return {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in found.items()
    }


def _exposed(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """Return the model with the tensors called ``names`` as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        copy.graph.output.append(value)
    data: bytes = copy.SerializeToString()
    return data


def _histogram(array: Array, low: float, high: float) -> Array:
    flat = array.reshape(-1)
    step = max(1, -(-flat.size // MAX_VALUES))
    if low == high:
        counts = np.zeros(BINS, np.int64)
        counts[0] = flat.size
        return counts
    return np.histogram(flat[::step], bins=BINS, range=(low, high))[0]


def _cut(spread: Spread, share: float) -> tuple[float, float]:
    """Return the range without the ``1 - share`` at either end."""
    total = spread.counts.sum()
    below = np.cumsum(spread.counts) / max(total, 1)
    first = int(np.searchsorted(below, 1 - share, side="right"))
    last = int(np.searchsorted(below, share, side="left"))
    width = (spread.high - spread.low) / BINS
    low = spread.low + first * width if share < 1 else spread.low
    high = spread.low + (min(last, BINS - 1) + 1) * width if share < 1 else spread.high
    return low, high


def _squared_error(spread: Spread, found: tuple[float, float]) -> float:
    low, high = min(found[0], 0.0), max(found[1], 0.0)
    scale = max((high - low) / LEVELS, TINY)
    width = (spread.high - spread.low) / BINS
    centres = spread.low + (np.arange(BINS) + 0.5) * width
    zero = np.round(-low / scale)
    levels = np.clip(np.round(centres / scale) + zero, 0, LEVELS)
    return float((spread.counts * (centres - (levels - zero) * scale) ** 2).sum())
