"""The arithmetic of quantization: scales, zero points and integers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TINIEST = 1e-10
"""The smallest scale: products of two stay normal numbers."""
MAX_BIAS = 1 << 30
"""Half of 32 bits; the other half is for the sum that it is added to."""
LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535)}


@dataclass(frozen=True, slots=True)
class Grid:
    """The values a quantized tensor can have: ``(integer - zero) * scale``."""

    scale: float
    zero: int
    dtype: str

    def quantize(self, array: Array) -> Array:
        """Return the nearest integers, those past the ends clipped."""
        low, high = LIMITS[self.dtype]
        levels = np.rint(array / np.float32(self.scale)) + self.zero
        integers: Array = np.clip(levels, low, high).astype(self.dtype)
        return integers


def activation_grid(
    low: float, high: float, dtype: str, *, symmetric: bool = False
) -> Grid:
    """Return the grid of a tensor whose range is ``low`` to ``high``.

    Zero is on every grid. A range that is as long below zero as above has its middle
    between two levels, and what was an image of bytes scaled to -1...1 then lies on
    rounding ties throughout; such a range gets one level less, its zero on a level.

    Args:
        low: At most 0.
        high: At least 0.
        dtype: A key of ``LIMITS``.
        symmetric: Zero is in the middle of the levels.
    """
    first, last = LIMITS[dtype]
    middle = (first + last + 1) // 2
    largest = max(-low, high)
    balanced = abs(low + high) * (last - first) < largest
    if symmetric or (balanced and largest > 0):
        return Grid(max(largest / (last - middle), TINIEST), middle, dtype)
    scale = np.float32(max((high - low) / (last - first), TINIEST))
    zero = int(np.clip(np.rint(first - low / scale), first, last))
    if zero == first and np.float32(last - first) * scale > np.float32(high):
        scale = np.nextafter(scale, np.float32(0))  # else a Clip to `high` stays
    return Grid(float(scale), zero, dtype)


@dataclass(frozen=True, slots=True)
class Weights:
    """Quantized weights.

    Attributes:
        integers: Of the weights' shape.
        scales: One for each channel along ``axis``, or a single one, without
            dimensions, when ``axis`` is None.
        zero: The same for every channel.
    """

    integers: Array
    scales: Array
    zero: int
    axis: int | None

    @property
    def zeros(self) -> Array:
        """The zero point, of the scales' shape."""
        return np.full(self.scales.shape, self.zero, self.integers.dtype)

    def broadcast_scales(self) -> Array:
        """Return the scales in a shape that multiplies the integers."""
        if self.axis is None:
            return self.scales
        shape = [1] * self.integers.ndim
        shape[self.axis] = -1
        return self.scales.reshape(shape)


def weight_scales(array: Array, axis: int | None, *, levels: int = 127) -> Array:
    """Return the scales with which the largest weights become ``levels``."""
    if axis is None:
        largest = np.abs(array).max(initial=0)
    else:
        others = tuple(n for n in range(array.ndim) if n != axis)
        largest = np.abs(array).max(axis=others, initial=0)
    return np.asarray(np.maximum(largest / levels, TINIEST), np.float32)


def scales_for_bias(scales: Array, bias: Array, input_scale: float) -> Array:
    """Return scales that are large enough for the bias to fit 32 bits.

    The bias is stored in units of input scale times weight scale. A channel whose
    weights are next to nothing has a scale so small that its bias overflows; its
    weights can do with a larger one.
    """
    needed = np.abs(bias).astype(np.float64) / (input_scale * MAX_BIAS)
    least = needed if scales.ndim else needed.max(initial=0)
    enlarged: Array = np.maximum(scales, least).astype(np.float32)
    return enlarged


def quantize_weights(
    array: Array, scales: Array, axis: int | None, *, signed: bool = True
) -> Weights:
    """Return ``array`` in 8 bits, its zero in the middle."""
    found = Weights(array, scales, 0, axis)
    levels = np.clip(np.rint(array / found.broadcast_scales()), -127, 127)
    if signed:
        return Weights(levels.astype(np.int8), scales, 0, axis)
    return Weights((levels + 128).astype(np.uint8), scales, 128, axis)


def quantize_bias(
    bias: Array, input_scale: float, scales: Array
) -> tuple[Array, Array]:
    """Return the bias as int32 and the scales it is in units of."""
    units = (np.float32(input_scale) * scales).astype(np.float32)
    limit = 2.0**31 - 1
    levels = np.clip(np.rint(bias.astype(np.float64) / units), -limit, limit)
    return levels.astype(np.int32), units
