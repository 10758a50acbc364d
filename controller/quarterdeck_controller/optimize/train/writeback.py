"""What was learned, back in the graph that it came from.

Only constants change: nodes, names, types and shapes stay, so that the runtime chooses
the same kernels as before.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from quarterdeck_controller.optimize.train.parts import Bias, Weight
from quarterdeck_controller.optimize.train.student import Student

Array = NDArray[Any]
Arrays = dict[str, Array]

BIAS_LIMIT = 2**31 - 1


def write_back(student: Student) -> onnx.ModelProto:
    """Return the graph with integers, scales and floats as they are learned now."""
    model = onnx.ModelProto()
    model.CopyFrom(student.model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, array in _arrays(student, constants).items():
        old = constants[name]
        kind = onnx.helper.tensor_dtype_to_np_dtype(old.data_type)
        shaped = array.reshape(tuple(old.dims)).astype(kind)
        old.CopyFrom(numpy_helper.from_array(shaped, name))
    return model


def _arrays(student: Student, constants: Mapping[str, onnx.TensorProto]) -> Arrays:
    parts = student.parts
    arrays: Arrays = {}
    for name, logarithm in student.scales.items():
        arrays[name] = logarithm.detach().exp().numpy()
    for weight in parts.weights:
        current = student.learned[weight.integers].current().detach()
        arrays[weight.integers] = _integers(weight, current, arrays[weight.scale])
    for bias in parts.biases:
        size = int(np.prod(constants[bias.scale].dims))
        scale = _bias_scale(bias, arrays, constants, size)
        current = student.learned[bias.integers].current().detach()
        whole = np.round(current.numpy().astype(np.float64).reshape(-1) / scale)
        arrays[bias.scale] = scale
        arrays[bias.integers] = np.clip(whole, -BIAS_LIMIT, BIAS_LIMIT)
    for name in parts.plain:
        arrays[name] = student.learned[name].current().detach().numpy()
    return arrays


def _integers(weight: Weight, current: Tensor, scale: Array) -> Array:
    floats = current.numpy()
    steps = np.round(floats / weight.spread(scale, floats.ndim))
    zero = weight.spread(weight.zero, floats.ndim)
    return np.asarray(np.clip(steps + zero, weight.low, weight.high))


def _bias_scale(
    bias: Bias, arrays: Arrays, constants: Mapping[str, onnx.TensorProto], size: int
) -> Array:
    first, second = (
        arrays[name] if name in arrays else numpy_helper.to_array(constants[name])
        for name in bias.factors
    )
    product = np.asarray(first.reshape(-1) * second.reshape(-1), np.float32)
    return np.broadcast_to(product, (size,))
