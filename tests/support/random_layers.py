"""Layers of random models: each takes a value and returns what it makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]
Samples = dict[str, Array]
Shape = tuple[int, ...]
Attribute = int | float | str | Sequence[int] | TensorProto | onnx.GraphProto

COUNT = 8
MASK = np.float32(-3.4e38)
IMAGE, SIGNAL, ROW = 3, 2, 1
"""Ranks without the batch."""


@dataclass(frozen=True)
class Value:
    """A tensor of floats; its shape is without the batch, which comes first."""

    name: str
    shape: Shape


@dataclass
class Net:
    """A graph under construction."""

    rng: np.random.Generator
    opset: int
    batch: int | str
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    samples: Samples = field(default_factory=dict)
    weights: dict[Shape, str] = field(default_factory=dict)
    count: int = 0

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, low: int, high: int) -> int:
        """A number from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: int,
        **attributes: Attribute,
    ) -> list[str]:
        names = [self.fresh(operator.lower()) for _ in range(outputs)]
        made = helper.make_node(operator, list(inputs), names)
        for key, value in attributes.items():
            made.attribute.append(helper.make_attribute(key, value))
        if self.chance(0.75):
            made.name = f"{operator}_{self.count}"
        self.nodes.append(made)
        return names

    def one(self, operator: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        return self.node(operator, inputs, 1, **attributes)[0]

    def plain(self, array: Array | np.float32) -> str:
        """A constant, as an initializer or a Constant node."""
        name = self.fresh("c")
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if self.chance(0.3):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def weight(self, *shape: int) -> str:
        """Weights in one of the ways that exporters write them."""
        if shape in self.weights and self.chance(0.3):
            return self.weights[shape]
        array = _weights(self.rng, shape)
        draw = self.rng.random()
        if draw < 0.1 and len(shape) == 2:
            name = self.one("Transpose", [self.plain(array.T.copy())], perm=[1, 0])
        elif draw < 0.2:
            name = self.one("Identity", [self.plain(array)])
        elif draw < 0.3:
            flat = self.plain(array.reshape(-1))
            name = self.one("Reshape", [flat, self.plain(np.array(shape, np.int64))])
        else:
            name = self.plain(array)
        if self.chance(0.1) and name == (self.initializers or [TensorProto()])[-1].name:
            self.inputs.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            )
        self.weights[shape] = name
        return name

    def axes(self, *axes: int) -> str:
        return self.plain(np.array(axes, np.int64))

    def add_input(self, shape: Shape, *, integers: int = 0) -> str:
        name = self.fresh("x")
        kind = TensorProto.INT64 if integers else TensorProto.FLOAT
        self.inputs.append(
            helper.make_tensor_value_info(name, kind, [self.batch, *shape])
        )
        full = (COUNT, *shape)
        self.samples[name] = (
            self.rng.integers(0, integers, full)
            if integers
            else self.rng.standard_normal(full).astype(np.float32)
        )
        return name


def _weights(rng: np.random.Generator, shape: Shape) -> Array:
    fan = max(prod(shape) // max(shape[0], 1), 1)
    array = rng.standard_normal(shape) / np.sqrt(fan)
    draw = rng.random()
    if draw < 0.03:
        array[:] = 0
    elif draw < 0.08:
        array *= 1e-4
    elif draw < 0.16:
        array[0] *= 64  # one channel that outweighs the others
    return np.asarray(array, np.float32)


# Every layer takes a value of the ranks it names and returns another one, or None when
# this one does not suit it.
Layer = Callable[[Net, Value], Value | None]


def conv(net: Net, x: Value) -> Value | None:
    channels, *space = x.shape
    kernel = [net.pick(1, min(3, size)) for size in space]
    dilations = [net.pick(1, 2) if size > 4 else 1 for size in space]
    strides = [net.pick(1, 2) for _ in space]
    draw = net.rng.random()
    group = channels if draw < 0.3 else 2 if draw < 0.4 and channels % 2 == 0 else 1
    made = group * net.pick(1, 2) if group > 1 else net.pick(1, 16)
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    pads = [r // 2 for r in reach] + [r - r // 2 for r in reach]
    if net.chance(0.2) and all(s > r for s, r in zip(space, reach, strict=True)):
        pads = [0] * len(pads)
    inputs = [x.name, net.weight(made, channels // group, *kernel)]
    inputs += [net.weight(made)] if net.chance(0.6) else []
    name = net.one(
        "Conv",
        inputs,
        group=group,
        kernel_shape=kernel,
        dilations=dilations,
        strides=strides,
        pads=pads,
    )
    after = [
        (size + pads[i] + pads[i + len(space)] - reach[i] - 1) // strides[i] + 1
        for i, size in enumerate(space)
    ]
    return Value(name, (made, *after))


def conv_transpose(net: Net, x: Value) -> Value | None:
    channels, *space = x.shape
    if prod(space) > 400:
        return None
    group = 2 if channels % 2 == 0 and net.chance(0.3) else 1
    made = net.pick(1, 8)
    weights = net.weight(channels, made, *([2] * len(space)))
    name = net.one(
        "ConvTranspose", [x.name, weights], group=group, strides=[2] * len(space)
    )
    return Value(name, (made * group, *(2 * size for size in space)))


def batch_norm(net: Net, x: Value) -> Value | None:
    size = x.shape[0]
    spread = net.plain(net.rng.uniform(0.3, 2, size).astype(np.float32))
    inputs = [x.name, *(net.weight(size) for _ in range(3)), spread]
    return Value(net.one("BatchNormalization", inputs), x.shape)


def instance_norm(net: Net, x: Value) -> Value | None:
    size = x.shape[0]
    inputs = [x.name, net.weight(size), net.weight(size)]
    return Value(net.one("InstanceNormalization", inputs), x.shape)


def pool(net: Net, x: Value) -> Value | None:
    channels, *space = x.shape
    if min(space) < 2:
        return None
    operator = "MaxPool" if net.chance(0.5) else "AveragePool"
    twos = [2] * len(space)
    name = net.one(operator, [x.name], kernel_shape=twos, strides=twos)
    return Value(name, (channels, *(size // 2 for size in space)))


def global_pool(net: Net, x: Value) -> Value | None:
    name = net.one("GlobalAveragePool", [x.name])
    return Value(name, (x.shape[0], *(1 for _ in x.shape[1:])))


def flatten(net: Net, x: Value) -> Value | None:
    if prod(x.shape) > 2048:
        return None
    size = (prod(x.shape),)
    draw = net.rng.random()
    if draw < 0.4:
        return Value(net.one("Flatten", [x.name], axis=1), size)
    if draw < 0.7:
        return Value(net.one("Reshape", [x.name, net.axes(0, -1)]), size)
    first = net.one("Gather", [net.one("Shape", [x.name]), net.axes(0)], axis=0)
    shape = net.one("Concat", [first, net.axes(*size)], axis=0)
    return Value(net.one("Reshape", [x.name, shape]), size)


def gemm(net: Net, x: Value) -> Value | None:
    (size,) = x.shape
    made, flipped = net.pick(1, 24), net.chance(0.5)
    inputs = [x.name, net.weight(made, size) if flipped else net.weight(size, made)]
    inputs += [net.weight(made)] if net.opset < 11 or net.chance(0.7) else []
    extra = {"alpha": 0.5, "beta": 2.0} if net.chance(0.2) else {}
    return Value(net.one("Gemm", inputs, transB=int(flipped), **extra), (made,))


def gemm_of_transposed(net: Net, x: Value) -> Value | None:
    (size,) = x.shape
    made = net.pick(1, 24)
    inputs = [net.one("Transpose", [x.name], perm=[1, 0]), net.weight(size, made)]
    return Value(net.one("Gemm", [*inputs, net.weight(made)], transA=1), (made,))


def matmul(net: Net, x: Value) -> Value | None:
    made = net.pick(1, 24)
    name = net.one("MatMul", [x.name, net.weight(x.shape[-1], made)])
    if net.chance(0.5):
        name = net.one("Add", [name, net.weight(made)])
    return Value(name, (*x.shape[:-1], made))


def matmul_left(net: Net, x: Value) -> Value | None:
    rows, columns = x.shape
    made = net.pick(1, 16)
    name = net.one("MatMul", [net.weight(made, rows), x.name])
    return Value(name, (made, columns))


def attention(net: Net, x: Value) -> Value | None:
    steps, width = x.shape
    if steps > 64:
        return None
    other = net.one("Transpose", [x.name], perm=[0, 2, 1])
    scores = net.one("MatMul", [x.name, other])
    scores = net.one("Mul", [scores, net.plain(np.float32(width**-0.5))])
    hidden = net.rng.random((1, 1, steps)) < 0.3
    hidden[..., 0] = False
    if net.chance(0.5):
        scores = net.one("Where", [net.plain(hidden), net.plain(MASK), scores])
    else:
        mask = np.where(hidden, MASK, np.float32(0))
        scores = net.one("Add", [scores, net.plain(mask)])
    shares = net.one("Softmax", [scores], axis=2)
    return Value(net.one("MatMul", [shares, x.name]), x.shape)


def activation(net: Net, x: Value) -> Value | None:
    draw = net.pick(0, 8)
    simple = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid"]
    if draw < len(simple):
        return Value(net.one(simple[draw], [x.name]), x.shape)
    if draw == len(simple):
        slope = net.weight(x.shape[0], *(1 for _ in x.shape[1:]))
        return Value(net.one("PRelu", [x.name, slope]), x.shape)
    if draw == len(simple) + 1:
        return Value(clip(net, x.name, None if net.chance(0.3) else 0.0), x.shape)
    if net.opset >= 14:
        return Value(net.one("HardSwish", [x.name]), x.shape)
    inner = net.one("Add", [x.name, net.plain(np.float32(3))])
    gate = net.one("Mul", [x.name, clip(net, inner, 0.0)])
    return Value(net.one("Div", [gate, net.plain(np.float32(6))]), x.shape)


def clip(net: Net, name: str, low: float | None, high: float = 6.0) -> str:
    if net.opset < 11:
        bounds = {"max": high} if low is None else {"min": low, "max": high}
        return net.one("Clip", [name], **bounds)
    first = "" if low is None else net.plain(np.float32(low))
    return net.one("Clip", [name, first, net.plain(np.float32(high))])


def gelu(net: Net, x: Value) -> Value | None:
    inner = net.one("Div", [x.name, net.plain(np.float32(2**0.5))])
    shifted = net.one("Add", [net.one("Erf", [inner]), net.plain(np.float32(1))])
    doubled = net.one("Mul", [x.name, shifted])
    return Value(net.one("Mul", [doubled, net.plain(np.float32(0.5))]), x.shape)


def softmax(net: Net, x: Value) -> Value | None:
    return Value(net.one("Softmax", [x.name], axis=len(x.shape)), x.shape)


def layer_norm(net: Net, x: Value) -> Value | None:
    size = x.shape[-1]
    if net.opset >= 17 and net.chance(0.7):
        inputs = [x.name, net.weight(size), net.weight(size)]
        return Value(net.one("LayerNormalization", inputs), x.shape)
    centred = net.one("Sub", [x.name, mean(net, x.name, len(x.shape))])
    square = net.one("Pow", [centred, net.plain(np.float32(2))])
    spread = net.one(
        "Add", [mean(net, square, len(x.shape)), net.plain(np.float32(1e-3))]
    )
    normed = net.one("Div", [centred, net.one("Sqrt", [spread])])
    return Value(net.one("Mul", [normed, net.weight(size)]), x.shape)


def mean(net: Net, name: str, axis: int, *, keep: int = 1) -> str:
    if net.opset < 18:
        return net.one("ReduceMean", [name], axes=[axis], keepdims=keep)
    return net.one("ReduceMean", [name, net.axes(axis)], keepdims=keep)


def reduce_mean(net: Net, x: Value) -> Value | None:
    return Value(mean(net, x.name, len(x.shape), keep=0), x.shape[:-1])


def arithmetic(net: Net, x: Value) -> Value | None:
    operator = ["Add", "Sub", "Mul", "Div"][net.pick(0, 3)]
    shape = tuple(size if net.chance(0.6) else 1 for size in x.shape)
    if operator == "Div":
        other = net.plain(net.rng.uniform(0.5, 2, shape).astype(np.float32))
    else:
        other = net.weight(*shape)
    inputs = [x.name, other]
    return Value(net.one(operator, inputs[:: -1 if operator == "Sub" else 1]), x.shape)


def residual(net: Net, x: Value) -> Value | None:
    other = activation(net, x)
    assert other is not None
    return Value(net.one("Add", [x.name, other.name]), x.shape)


def concat(net: Net, x: Value) -> Value | None:
    other = activation(net, x)
    assert other is not None
    name = net.one("Concat", [other.name, x.name], axis=1)
    return Value(name, (2 * x.shape[0], *x.shape[1:]))


def split(net: Net, x: Value) -> Value | None:
    size = x.shape[0]
    if size < 2:
        return None
    parts = [size // 2, size - size // 2]
    if net.opset < 13:
        first, second = net.node("Split", [x.name], 2, axis=1, split=parts)
    else:
        first, second = net.node("Split", [x.name, net.axes(*parts)], 2, axis=1)
    if parts[0] == parts[1] and net.chance(0.6):
        gate = net.one("Sigmoid", [second])
        return Value(net.one("Mul", [first, gate]), (parts[0], *x.shape[1:]))
    return Value(second, (parts[1], *x.shape[1:]))  # the first half is dead


def cut(net: Net, x: Value) -> Value | None:
    size = x.shape[-1]
    if size < 3:
        return None
    axis = len(x.shape)
    if net.opset < 10:
        name = net.one("Slice", [x.name], axes=[axis], starts=[1], ends=[size - 1])
    else:
        inputs = [x.name, net.axes(1), net.axes(size - 1), net.axes(axis)]
        name = net.one("Slice", inputs)
    return Value(name, (*x.shape[:-1], size - 2))


def pad(net: Net, x: Value) -> Value | None:
    pads = [0] * len(x.shape) + [1] + [0] * len(x.shape) + [net.pick(0, 2)]
    mode = "reflect" if net.chance(0.3) and x.shape[-1] > 2 else "constant"
    if net.opset < 11:
        name = net.one("Pad", [x.name], pads=pads, mode=mode)
    else:
        name = net.one("Pad", [x.name, net.axes(*pads)], mode=mode)
    return Value(name, (*x.shape[:-1], x.shape[-1] + 1 + pads[-1]))


def resize(net: Net, x: Value) -> Value | None:
    if prod(x.shape) > 2000:
        return None
    scales = net.plain(np.array([1, 1, *(2 for _ in x.shape[1:])], np.float32))
    after = (x.shape[0], *(2 * size for size in x.shape[1:]))
    if net.opset < 10:
        return Value(net.one("Upsample", [x.name, scales], mode="nearest"), after)
    roi = net.plain(np.zeros(0, np.float32)) if net.opset < 13 else ""
    inputs = [x.name, scales] if net.opset == 10 else [x.name, roi, scales]
    mode = "linear" if net.chance(0.4) else "nearest"
    return Value(net.one("Resize", inputs, mode=mode), after)


def swap(net: Net, x: Value) -> Value | None:
    rank = len(x.shape)
    perm = [0, *range(2, rank + 1), 1]
    name = net.one("Transpose", [x.name], perm=perm)
    return Value(name, (*x.shape[1:], x.shape[0]))


def squeeze(net: Net, x: Value) -> Value | None:
    places = [i for i, size in enumerate(x.shape) if size == 1]
    if not places or len(x.shape) == ROW:
        return None
    at = places[-1]
    rest = x.shape[:at] + x.shape[at + 1 :]
    if net.opset < 13:
        return Value(net.one("Squeeze", [x.name], axes=[at + 1]), rest)
    return Value(net.one("Squeeze", [x.name, net.axes(at + 1)]), rest)


def unsqueeze(net: Net, x: Value) -> Value | None:
    if net.opset < 13:
        return Value(net.one("Unsqueeze", [x.name], axes=[1]), (1, *x.shape))
    return Value(net.one("Unsqueeze", [x.name, net.axes(1)]), (1, *x.shape))


def reshape(net: Net, x: Value) -> Value | None:
    if x.shape[-1] % 2:
        return None
    after = (*x.shape[:-2], x.shape[-2] * 2, x.shape[-1] // 2)
    return Value(net.one("Reshape", [x.name, net.axes(0, *after)]), after)


def recurrent(net: Net, x: Value) -> Value | None:
    _, width = x.shape
    hidden, both = net.pick(2, 8), net.chance(0.3)
    operator, gates = [("LSTM", 4), ("GRU", 3), ("RNN", 1)][net.pick(0, 2)]
    ways = 2 if both else 1
    sequence = net.one("Transpose", [x.name], perm=[1, 0, 2])
    inputs = [
        sequence,
        net.weight(ways, gates * hidden, width),
        net.weight(ways, gates * hidden, hidden),
        *([net.weight(ways, 2 * gates * hidden)] if net.chance(0.6) else []),
    ]
    way = "bidirectional" if both else "forward"
    _, last = net.node(operator, inputs, 2, hidden_size=hidden, direction=way)
    swapped = net.one("Transpose", [last], perm=[1, 0, 2])
    return Value(net.one("Flatten", [swapped], axis=1), (ways * hidden,))


def branch(net: Net, x: Value) -> Value | None:
    """An If on the data, with weights inside and from outside."""
    peak = net.one("ReduceMax", [x.name], keepdims=0)
    condition = net.one("Greater", [peak, net.plain(np.float32(1.5))])
    made = net.pick(1, 12)
    outer = net.weight(x.shape[-1], made)
    shape = (x.shape[-1], made)
    inner = numpy_helper.from_array(_weights(net.rng, shape), "inner")
    then = [
        helper.make_node("Constant", [], ["inner"], value=inner),
        helper.make_node("MatMul", [x.name, "inner"], ["h"], name="product"),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    other = [
        helper.make_node("MatMul", [x.name, outer], ["h"], name="product"),
        helper.make_node("Tanh", ["h"], ["y"]),
    ]
    given = [floats("y", 1 + len(x.shape))]
    name = net.one(
        "If",
        [condition],
        then_branch=helper.make_graph(then, "then", [], given),
        else_branch=helper.make_graph(other, "else", [], given),
    )
    return Value(name, (*x.shape[:-1], made))


def floats(name: str, rank: int) -> ValueInfoProto:
    """Floats of this rank, of any size."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
