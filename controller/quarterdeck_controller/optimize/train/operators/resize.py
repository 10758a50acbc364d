"""Resize, one axis at a time, by the standard's own formulas."""

from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

from quarterdeck_controller.optimize.train.operators.call import Call, UnsupportedError

TAPS = 4


@dataclass(frozen=True, slots=True)
class _Axis:
    """How one axis is sampled; ``scale`` is output over input length."""

    length: int
    wanted: int
    scale: float
    transform: str

    def position(self, at: int) -> float:
        """Return where output element ``at`` lies among the inputs."""
        if self.transform == "asymmetric":
            return at / self.scale
        if self.transform == "align_corners":
            last = self.wanted - 1
            return at * (self.length - 1) / last if last else 0.0
        if self.transform == "pytorch_half_pixel" and self.wanted <= 1:
            return 0.0
        if self.transform in ("half_pixel", "pytorch_half_pixel"):
            return (at + 0.5) / self.scale - 0.5
        if self.transform == "half_pixel_symmetric":
            adjusted = self.wanted / (self.scale * self.length)
            centre = self.length / 2
            return centre * (1 - adjusted) + (at + 0.5) / self.scale - 0.5
        raise UnsupportedError(f"its coordinates are {self.transform}")


def resize(call: Call) -> Tensor:
    """Resize by nearest, linear or cubic interpolation."""
    if call.given.get("antialias", 0):
        raise UnsupportedError("it smooths (antialias)")
    if call.given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("it keeps the aspect ratio")
    x = call.tensor(0)
    for axis, (wanted, scale) in sorted(_wanted(call, x).items()):
        length = x.shape[axis]
        if wanted != length or scale != 1:
            transform = call.given.get("coordinate_transformation_mode", "half_pixel")
            x = _resize(x, axis, _Axis(length, wanted, scale, transform), call)
    return x


def _wanted(call: Call, x: Tensor) -> dict[int, tuple[int, float]]:
    axes = [a % x.dim() for a in call.given.get("axes", range(x.dim()))]
    sizes, scales = call.numbers(3), call.optional(2)
    if sizes:
        pairs = zip(axes, sizes, strict=True)
        return {axis: (size, size / x.shape[axis]) for axis, size in pairs}
    if scales is None or scales.numel() == 0:
        raise UnsupportedError("it has neither scales nor sizes")
    factors = zip(axes, scales.tolist(), strict=True)
    return {axis: (floor(x.shape[axis] * by), by) for axis, by in factors}


def _resize(x: Tensor, axis: int, sampled: _Axis, call: Call) -> Tensor:
    mode = call.given.get("mode", "nearest")
    if mode == "nearest":
        rule = call.given.get("nearest_mode", "round_prefer_floor")
        taken = [_nearest(sampled, at, rule) for at in range(sampled.wanted)]
        return x.index_select(axis, torch.tensor(taken, dtype=torch.int64))
    weights = torch.zeros(sampled.wanted, sampled.length, dtype=torch.float64)
    for at in range(sampled.wanted):
        taps = _linear(sampled, at) if mode == "linear" else _cubic(sampled, at, call)
        for index, weight in taps:
            weights[at, min(max(index, 0), sampled.length - 1)] += weight
    mixed = torch.matmul(x.movedim(axis, -1), weights.to(x.dtype).t())
    return mixed.movedim(-1, axis)


def _nearest(sampled: _Axis, at: int, rule: str) -> int:
    position = sampled.position(at)
    rounded = {
        "round_prefer_floor": ceil(position - 0.5),
        "round_prefer_ceil": floor(position + 0.5),
        "floor": floor(position),
        "ceil": ceil(position),
    }[rule]
    return min(max(rounded, 0), sampled.length - 1)


def _linear(sampled: _Axis, at: int) -> list[tuple[int, float]]:
    position = min(max(sampled.position(at), 0.0), sampled.length - 1.0)
    low = floor(position)
    return [(low, 1 - (position - low)), (low + 1, position - low)]


def _cubic(sampled: _Axis, at: int, call: Call) -> list[tuple[int, float]]:
    position = sampled.position(at)
    low, a = floor(position), call.given.get("cubic_coeff_a", -0.75)
    taps = [(low + k, _keys(abs(position - (low + k)), a)) for k in range(-1, TAPS - 1)]
    if not call.given.get("exclude_outside", 0):
        return taps
    inside = [(index, w) for index, w in taps if 0 <= index < sampled.length]
    total = sum(weight for _, weight in inside)
    return [(index, weight / total) for index, weight in inside]


def _keys(distance: float, a: float) -> float:
    """Weight at a distance (Keys, 1981)."""
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < TAPS / 2:
        return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return 0.0
