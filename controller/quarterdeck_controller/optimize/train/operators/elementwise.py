"""Operators that compute every element by itself."""

from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from quarterdeck_controller.optimize.train.operators.call import (
    Call,
    Operator,
    UnsupportedError,
)

TYPES: Mapping[int, torch.dtype] = MappingProxyType(
    {
        TensorProto.FLOAT: torch.float32,
        TensorProto.DOUBLE: torch.float64,
        TensorProto.FLOAT16: torch.float16,
        TensorProto.BFLOAT16: torch.bfloat16,
        TensorProto.BOOL: torch.bool,
        TensorProto.UINT8: torch.uint8,
        TensorProto.INT8: torch.int8,
        TensorProto.INT16: torch.int16,
        TensorProto.INT32: torch.int32,
        TensorProto.INT64: torch.int64,
    }
)


def unary(compute: Callable[[Tensor], Tensor]) -> Operator:
    """Return the operator that applies ``compute`` to its one input."""
    return lambda call: compute(call.tensor(0))


def binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Return the operator that joins its two inputs."""
    return lambda call: compute(call.tensor(0), call.tensor(1))


def variadic(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Return the operator that joins any number of inputs, two at a time."""
    return lambda call: reduce(
        compute, (call.tensor(index) for index in range(len(call.inputs)))
    )


def mean(call: Call) -> Tensor:
    """Mean of any number of inputs."""
    total = torch.zeros(())
    for index in range(len(call.inputs)):
        total = total + call.tensor(index)
    return total / len(call.inputs)


def divide(call: Call) -> Tensor:
    """Div: whole numbers are cut toward zero."""
    left, right = call.tensor(0), call.tensor(1)
    if left.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def modulo(call: Call) -> Tensor:
    """Mod: the sign is the divisor's, with ``fmod`` the dividend's."""
    compute = torch.fmod if call.given.get("fmod", 0) else torch.remainder
    return compute(call.tensor(0), call.tensor(1))


def power(call: Call) -> Tensor:
    """Pow keeps the base's type."""
    base = call.tensor(0)
    return torch.pow(base, call.tensor(1).to(base.dtype))


def cast(call: Call) -> Tensor:
    """Cast."""
    wanted = TYPES.get(call.given["to"])
    if wanted is None:
        name = TensorProto.DataType.Name(call.given["to"])
        raise UnsupportedError(f"it casts to {name}")
    return call.tensor(0).to(wanted)


def clip(call: Call) -> Tensor:
    """Clip; each end may be left out."""
    low, high = call.optional(1), call.optional(2)
    least = call.given.get("min") if low is None else low.item()
    most = call.given.get("max") if high is None else high.item()
    if least is None and most is None:
        return call.tensor(0)
    return torch.clamp(call.tensor(0), least, most)


def where(call: Call) -> Tensor:
    """Where."""
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))


def gelu(call: Call) -> Tensor:
    """Gelu, exact or by tanh."""
    return functional.gelu(
        call.tensor(0), approximate=call.given.get("approximate", "none")
    )


def fast_gelu(call: Call) -> Tensor:
    """The runtime's FastGelu: an optional bias, then tanh's approximation."""
    bias = call.optional(1)
    x = call.tensor(0) if bias is None else call.tensor(0) + bias
    return functional.gelu(x, approximate="tanh")


def bias_gelu(call: Call) -> Tensor:
    """The runtime's BiasGelu."""
    return functional.gelu(call.tensor(0) + call.tensor(1))


def quick_gelu(call: Call) -> Tensor:
    """The runtime's QuickGelu."""
    x = call.tensor(0)
    return x * torch.sigmoid(call.given.get("alpha", 1.702) * x)


def prelu(call: Call) -> Tensor:
    """PRelu: the slope is broadcast as in arithmetic."""
    x = call.tensor(0)
    return torch.where(x < 0, x * call.tensor(1), x)


def leaky_relu(call: Call) -> Tensor:
    """LeakyRelu."""
    return functional.leaky_relu(call.tensor(0), call.given.get("alpha", 0.01))


def elu(call: Call) -> Tensor:
    """Elu."""
    return functional.elu(call.tensor(0), call.given.get("alpha", 1.0))


def selu(call: Call) -> Tensor:
    """Selu with its standard constants or the given ones."""
    x = call.tensor(0)
    alpha = call.given.get("alpha", 1.6732632423543772)
    return call.given.get("gamma", 1.0507009873554805) * functional.elu(x, alpha)


def hard_sigmoid(call: Call) -> Tensor:
    """HardSigmoid."""
    x = call.tensor(0) * call.given.get("alpha", 0.2) + call.given.get("beta", 0.5)
    return torch.clamp(x, 0, 1)


def thresholded_relu(call: Call) -> Tensor:
    """ThresholdedRelu."""
    x = call.tensor(0)
    return torch.where(x > call.given.get("alpha", 1.0), x, torch.zeros_like(x))


def is_infinite(call: Call) -> Tensor:
    """IsInf, of either sign or one."""
    x = call.tensor(0)
    up = (
        torch.isposinf(x)
        if call.given.get("detect_positive", 1)
        else torch.zeros_like(x)
    )
    down = (
        torch.isneginf(x)
        if call.given.get("detect_negative", 1)
        else torch.zeros_like(x)
    )
    return up.bool() | down.bool()


ELEMENTWISE: Mapping[str, Operator] = MappingProxyType(
    {
        "Abs": unary(torch.abs),
        "Acos": unary(torch.acos),
        "Add": binary(torch.add),
        "And": binary(torch.logical_and),
        "Asin": unary(torch.asin),
        "Atan": unary(torch.atan),
        "BiasGelu": bias_gelu,
        "Cast": cast,
        "CastLike": lambda call: call.tensor(0).to(call.tensor(1).dtype),
        "Ceil": unary(torch.ceil),
        "Celu": lambda call: functional.celu(
            call.tensor(0), call.given.get("alpha", 1.0)
        ),
        "Clip": clip,
        "Cos": unary(torch.cos),
        "Div": divide,
        "Dropout": unary(lambda x: x),
        "Elu": elu,
        "Equal": binary(torch.eq),
        "Erf": unary(torch.erf),
        "Exp": unary(torch.exp),
        "FastGelu": fast_gelu,
        "Floor": unary(torch.floor),
        "Gelu": gelu,
        "Greater": binary(torch.gt),
        "GreaterOrEqual": binary(torch.ge),
        "HardSigmoid": hard_sigmoid,
        "HardSwish": unary(functional.hardswish),
        "Identity": unary(lambda x: x),
        "IsInf": is_infinite,
        "IsNaN": unary(torch.isnan),
        "LeakyRelu": leaky_relu,
        "Less": binary(torch.lt),
        "LessOrEqual": binary(torch.le),
        "Log": unary(torch.log),
        "Max": variadic(torch.maximum),
        "Mean": mean,
        "Min": variadic(torch.minimum),
        "Mish": unary(functional.mish),
        "Mod": modulo,
        "Mul": binary(torch.mul),
        "Neg": unary(torch.neg),
        "Not": unary(torch.logical_not),
        "Or": binary(torch.logical_or),
        "PRelu": prelu,
        "Pow": power,
        "QuickGelu": quick_gelu,
        "Reciprocal": unary(torch.reciprocal),
        "Relu": unary(torch.relu),
        "Round": unary(torch.round),
        "Selu": selu,
        "Sigmoid": unary(torch.sigmoid),
        "Sign": unary(torch.sign),
        "Sin": unary(torch.sin),
        "Softplus": unary(functional.softplus),
        "Softsign": unary(functional.softsign),
        "Sqrt": unary(torch.sqrt),
        "Sub": binary(torch.sub),
        "Sum": variadic(torch.add),
        "Tan": unary(torch.tan),
        "Tanh": unary(torch.tanh),
        "ThresholdedRelu": thresholded_relu,
        "Where": where,
        "Xor": binary(torch.logical_xor),
    }
)
