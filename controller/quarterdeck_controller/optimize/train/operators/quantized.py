"""Operators on integers: fake-quantization, and what quantizes at run time.

Integers are carried as the floats that they stand for or as whole floats, so that
gradients pass; rounding passes them as if it were not there (the straight-through
estimator, Bengio et al. 2013, arXiv 1308.3432).
"""

from collections.abc import Mapping
from math import sqrt
from types import MappingProxyType

import torch
from torch import Tensor

from quarterdeck_controller.optimize.train.operators.call import (
    Call,
    Operator,
    UnsupportedError,
)

TOP = 255.0
BYTE = 8
FUSED = "_fake_quantize_learnable_per_tensor_affine"
FUSED_BY_CHANNEL = "_fake_quantize_learnable_per_channel_affine"
"""PyTorch's own names of the fused kernels; it exports them in no other way."""


def fake_quantize(
    x: Tensor, scale: Tensor, zero: Tensor, *, axis: int, low: int, high: int
) -> Tensor:
    """Return ``x`` as its integers would say it, with gradients for ``x`` and scale.

    Learned step size quantization (Esser et al. 2019, arXiv 1902.08153), by the fused
    kernels of PyTorch: elementwise it would take nine tenths of a training step.

    Args:
        x: Any shape.
        scale: One number, or one for each channel of ``axis``.
        zero: The zero point, of scale's shape or one number.
        axis: Of the channels.
        low: Least integer.
        high: Greatest integer.
    """
    share = 1 / sqrt(max(1, x.numel() // scale.numel()) * max(1, high))
    zero = zero.reshape(-1).float()
    if scale.numel() == 1:
        return getattr(torch, FUSED)(x, scale.reshape(1), zero[:1], low, high, share)
    zero = zero.expand(scale.numel()).contiguous()
    return getattr(torch, FUSED_BY_CHANNEL)(
        x, scale.reshape(-1), zero, axis % x.dim(), low, high, share
    )


def straight_round(x: Tensor) -> Tensor:
    """Round to even; gradients pass as if it did not."""
    return x + (torch.round(x) - x).detach()


def dynamic_quantize(call: Call) -> tuple[Tensor, ...]:
    """DynamicQuantizeLinear; the range is taken as given, not learned."""
    x = call.tensor(0)
    with torch.no_grad():
        low, high = x.min().clamp_max(0), x.max().clamp_min(0)
        scale = (high - low) / TOP
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = torch.round((-low / scale).clamp(0, TOP))
    return (straight_round(x / scale) + zero).clamp(0, TOP), scale, zero


def integer_matmul(call: Call) -> Tensor:
    """MatMulInteger, in floats."""
    left = _without_zero(call.tensor(0), call.optional(2), by_row=True)
    right = _without_zero(call.tensor(1), call.optional(3), by_row=False)
    return torch.matmul(left, right)


def _without_zero(x: Tensor, zero: Tensor | None, *, by_row: bool) -> Tensor:
    if zero is None:
        return x.float()
    zero = zero.float()
    return x.float() - (zero.unsqueeze(-1) if by_row and zero.dim() else zero)


def block_matmul(call: Call) -> Tensor:
    """The runtime's MatMulNBits: weights in blocks of 4 or 8 bits, not trained."""
    given = call.given
    bits, block = given.get("bits", 4), given["block_size"]
    rows, width = given["N"], given["K"]
    if bits not in (4, BYTE) or call.optional(4) is not None:
        raise UnsupportedError(f"its {bits} bits are stored in a way not known here")
    whole = _unpack(call.tensor(1), bits).reshape(rows, -1, block)
    zeros = call.optional(3)
    if zeros is None:
        zero = whole.new_full((1, 1, 1), 2 ** (bits - 1))
    elif zeros.is_floating_point():
        zero = zeros.reshape(rows, -1, 1)
    else:
        zero = _unpack(zeros.reshape(rows, -1), bits)[:, : whole.shape[1], None]
    weight = (whole - zero) * call.tensor(2).reshape(rows, -1, 1)
    product = torch.matmul(call.tensor(0), weight.reshape(rows, -1)[:, :width].t())
    bias = call.optional(5)
    return product if bias is None else product + bias


def _unpack(packed: Tensor, bits: int) -> Tensor:
    if bits == BYTE:
        return packed.float()
    both = torch.stack([packed & 15, packed >> 4], -1)
    return both.flatten(-2).float()


QUANTIZED: Mapping[str, Operator] = MappingProxyType(
    {
        "DynamicQuantizeLinear": dynamic_quantize,
        "MatMulInteger": integer_matmul,
        "MatMulNBits": block_matmul,
    }
)
