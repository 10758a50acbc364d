"""How QuantizeLinear and its inverse are carried out.

A quantized tensor is carried as the floats that its integers stand for: so the inverse
has nothing left to do, except for constants that are not trained.
"""

from collections.abc import Callable, Mapping

import onnx
import torch
from torch import Tensor

from quarterdeck_controller.optimize.train.operators.call import Call, Operator
from quarterdeck_controller.optimize.train.operators.quantized import fake_quantize
from quarterdeck_controller.optimize.train.parts import Activation, Parts

Makers = Mapping[str, Callable[[onnx.NodeProto], Operator]]


def rounding(model: onnx.ModelProto, parts: Parts) -> Makers:
    """Return what rounds activations to the integers that the graph gives them."""
    ranges = {part.node: part for part in parts.activations}
    return {
        "QuantizeLinear": lambda node: _quantizer(ranges[node.name]),
        "DequantizeLinear": _inverse(model),
    }


def passing(model: onnx.ModelProto) -> Makers:
    """Return what lets activations pass as they are."""
    return {
        "QuantizeLinear": lambda _: _pass,
        "DequantizeLinear": _inverse(model),
    }


def _quantizer(part: Activation) -> Operator:
    def quantize(call: Call) -> Tensor:
        zero = call.optional(2)
        return fake_quantize(
            call.tensor(0),
            call.tensor(1),
            torch.zeros(1) if zero is None else zero,
            axis=part.axis,
            low=part.low,
            high=part.high,
        )

    return quantize


def _inverse(model: onnx.ModelProto) -> Callable[[onnx.NodeProto], Operator]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return lambda node: _stand_for if node.input[0] in constants else _pass


def _pass(call: Call) -> Tensor:
    return call.tensor(0)


def _stand_for(call: Call) -> Tensor:
    whole, scale, zero = call.tensor(0).float(), call.tensor(1), call.optional(2)
    axis, block = call.given.get("axis", 1), call.given.get("block_size", 0)
    zero = torch.zeros_like(scale) if zero is None else zero.float()
    if block:
        length = whole.shape[axis]
        scale = scale.repeat_interleave(block, axis).narrow(axis, 0, length)
        zero = zero.repeat_interleave(block, axis).narrow(axis, 0, length)
    elif scale.numel() > 1:
        shape = [1] * whole.dim()
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (whole - zero) * scale
