"""What each operator does to channels that are scaled.

What is not understood pins the channels that it reads, so a rule that is missing costs
a chance and never the function. Tensors without channels of their own are not scaled.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx

from quarterdeck_controller.optimize.repair.channels import (
    Bound,
    Channels,
    Factor,
    Lane,
    Role,
)
from quarterdeck_controller.optimize.repair.graph import (
    Array,
    View,
    integer,
    integers,
    operand,
    text,
)

MATRIX = 2


def find_channels(graph: onnx.GraphProto) -> Channels:
    """Return the channels of ``graph``, whose operators are in order."""
    view, channels = View.of(graph), Channels()
    for node in graph.node:
        rule = RULES.get(node.op_type)
        done = rule(view, channels, node) if rule and not node.domain else False
        if not done:
            _pin_inputs(channels, node)
    for name in (*view.fixed, *(v.name for v in graph.input)):
        if name in channels.lanes:
            channels.pin(channels.lanes[name].ids)
    return channels


Rule = Callable[[View, Channels, onnx.NodeProto], bool]
"""Carry one operator out; False pins the channels that it reads."""


def _pin_inputs(channels: Channels, node: onnx.NodeProto) -> None:
    for name in node.input:
        if name in channels.lanes:
            channels.pin(channels.lanes[name].ids)


def _make(channels: Channels, node: onnx.NodeProto, axis: int, count: int) -> Array:
    ids = channels.fresh(count)
    if count > 1:
        channels.lanes[node.output[0]] = Lane(axis, ids)
    else:
        channels.pin(ids)
    return ids


def _pass(channels: Channels, node: onnx.NodeProto, lane: Lane) -> bool:
    channels.lanes[node.output[0]] = lane
    return True


def _column(ids: Array, axis: int) -> Array:
    """Return variables of an axis from the end in a shape that broadcasts."""
    return ids.reshape(-1, *(1,) * (-axis - 1))


def _bias(channels: Channels, node: onnx.NodeProto, slot: int, ids: Array) -> None:
    if operand(node, slot):
        channels.factors.append(Factor(node, slot, ids, "makes", weight=False))


# operators with weights ---------------------------------------------------------------


def _conv(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    weights = view.weights(operand(node, 1))
    bias = operand(node, 2)
    if weights is None or (bias and view.weights(bias) is None):
        return False
    axis, groups = 1 - weights.ndim, integer(node, "group", 1)
    flipped = node.op_type == "ConvTranspose"
    inputs = weights.shape[0] if flipped else weights.shape[1] * groups
    outputs = weights.shape[1] * groups if flipped else weights.shape[0]
    made = _make(channels, node, axis, outputs)
    lane = channels.lanes.get(node.input[0])
    if lane is not None and lane.axis == axis and len(lane.ids) == inputs:
        ids = _ends(lane.ids, weights, groups, across=not flipped)
        channels.factors.append(Factor(node, 1, ids, "reads", weight=True))
    elif lane is not None:
        channels.pin(lane.ids)
    ids = _ends(made, weights, groups, across=flipped)
    channels.factors.append(Factor(node, 1, ids, "makes", weight=True))
    _bias(channels, node, 2, made)
    return True


def _ends(ids: Array, weights: Array, groups: int, *, across: bool) -> Array:
    """Return variables as they lie in a kernel's first dimension, or across it.

    Across, they lie in the second dimension, anew in each group of the first.
    """
    ones = (1,) * (weights.ndim - 2)
    if not across:
        return ids.reshape(-1, 1, *ones)
    each = ids.reshape(groups, -1)
    if groups > 1:
        each = np.repeat(each, weights.shape[0] // groups, axis=0)
    return each.reshape(*each.shape, *ones)


def _matmul(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    weights = view.weights(operand(node, 1))
    if weights is None or weights.ndim != MATRIX:
        return False
    return _linear(channels, node, weights.shape, turned=False)


def _gemm(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    weights, bias = view.weights(operand(node, 1)), operand(node, 2)
    if weights is None or integer(node, "transA", 0):
        return False
    if bias and (view.weights(bias) is None or len(view.shapes[bias]) > 1):
        return False
    turned = bool(integer(node, "transB", 0))
    done = _linear(channels, node, weights.shape, turned=turned)
    lane = channels.lanes.get(node.output[0])
    if lane is not None:
        _bias(channels, node, 2, lane.ids)
    return done


def _linear(
    channels: Channels, node: onnx.NodeProto, shape: Sequence[int], *, turned: bool
) -> bool:
    inputs, outputs = (shape[1], shape[0]) if turned else (shape[0], shape[1])
    lane = channels.lanes.get(node.input[0])
    if lane is not None and lane.axis == -1 and len(lane.ids) == inputs:
        ids = lane.ids[None] if turned else lane.ids[:, None]
        channels.factors.append(Factor(node, 1, ids, "reads", weight=True))
    elif lane is not None:
        channels.pin(lane.ids)
    made = _make(channels, node, -1, outputs)
    ids = made[:, None] if turned else made[None]
    channels.factors.append(Factor(node, 1, ids, "makes", weight=True))
    return True


def _norm(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    """Channels begin at the scale and shift of a norm; what it reads is pinned."""
    names = [name for name in node.input[1:3] if name]
    held = [view.weights(name) for name in names]
    layer = node.op_type == "LayerNormalization"
    rank = view.rank(node.input[0])
    if any(one is None or one.ndim != 1 for one in held) or not held:
        return False
    if (layer and integer(node, "axis", -1) != -1) or (not layer and rank is None):
        return False
    axis = -1 if layer else 1 - (rank or 0)
    made = _make(channels, node, axis, view.constants[names[0]].dims[0])
    for slot in range(1, 1 + len(names)):
        channels.factors.append(Factor(node, slot, made, "makes", weight=False))
    _pin_inputs(channels, node)
    return True


# operators that pass channels on ------------------------------------------------------


def _same(_view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    lane = channels.lanes.get(node.input[0])
    return lane is not None and _pass(channels, node, lane)


def _pool(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    """A pool over what follows the channels."""
    lane, rank = channels.lanes.get(node.input[0]), view.rank(node.input[0])
    return (
        lane is not None
        and rank is not None
        and lane.axis == 1 - rank
        and len(node.output) == 1
        and _pass(channels, node, lane)
    )


def _prelu(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    return operand(node, 1) in view.constants and _same(view, channels, node)


def _clip(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    """A Clip from 0 up is a Relu to all that stays under its upper end."""
    lane = channels.lanes.get(node.input[0])
    low, high = view.constant(operand(node, 1)), view.constant(operand(node, 2))
    if lane is None or low is None or low.size != 1 or float(low.ravel()[0]) != 0:
        return False
    if operand(node, 2) and (high is None or high.size != 1):
        return False
    top = np.inf if high is None else float(high.ravel()[0])
    channels.bounds.append(Bound(node, lane.ids, top))
    return _pass(channels, node, lane)


def _mean(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    """A reduction over other axes than the channels'."""
    lane, rank = channels.lanes.get(node.input[0]), view.rank(node.input[0])
    axes = integers(node, "axes")
    held = view.constant(operand(node, 1))
    if axes is None and held is not None:
        axes = tuple(int(one) for one in held.ravel())
    if lane is None or rank is None or not axes:
        return False
    places = {one - rank if one >= 0 else one for one in axes}
    if lane.axis in places:
        return False
    gone = 0 if integer(node, "keepdims", 1) else sum(p > lane.axis for p in places)
    return _pass(channels, node, Lane(lane.axis + gone, lane.ids))


def _pad(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    lane, pads = channels.lanes.get(node.input[0]), view.constant(operand(node, 1))
    value = view.constant(operand(node, 2))
    if lane is None or pads is None or operand(node, 3):
        return False
    if operand(node, 2) and (value is None or float(value.ravel()[0]) != 0):
        return False
    both = pads.reshape(2, -1)
    return not both[:, lane.axis].any() and _pass(channels, node, lane)


def _resize(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    lane, shape = channels.lanes.get(node.input[0]), view.shapes.get(node.output[0])
    if lane is None or shape is None or len(shape) < -lane.axis:
        return False
    if text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return False
    return shape[lane.axis] == len(lane.ids) and _pass(channels, node, lane)


def _transpose(_view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    lane, order = channels.lanes.get(node.input[0]), integers(node, "perm")
    if lane is None or order is None:
        return False
    at = order.index(len(order) + lane.axis)
    return _pass(channels, node, Lane(at - len(order), lane.ids))


def _reshape(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    """Channels that stay whole, or are laid out one after the other by flattening."""
    lane = channels.lanes.get(node.input[0])
    before = view.shapes.get(node.input[0])
    after = view.shapes.get(node.output[0])
    if lane is None or not before or not after:
        return False
    count = len(lane.ids)
    if lane.axis == -1 and before[-1] == after[-1] == count:
        return _pass(channels, node, lane)
    if lane.axis != 1 - len(before) or _size(before[1:]) is None:
        return False
    if _size(before[1:]) != _size(after[1:]) or before[1] != count:
        return False
    if after[1] == count:
        return _pass(channels, node, Lane(1 - len(after), lane.ids))
    flat = Lane(-1, np.repeat(lane.ids, _size(before[2:]) or 1))
    return len(after) == MATRIX and _pass(channels, node, flat)


def _size(dims: Sequence[int | None]) -> int | None:
    total = 1
    for one in dims:
        if not one:
            return None
        total *= one
    return total


# operators that join tensors ----------------------------------------------------------


def _add(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    """A sum, or a maximum: what holds of one summand holds of all."""
    held = [view.weights(name) for name in node.input]
    lanes = [channels.lanes.get(name) for name in node.input]
    known = [lane for lane in lanes if lane is not None]
    if not known or any(
        (one is None) == (lane is None) for one, lane in zip(held, lanes, strict=True)
    ):
        return False
    first = known[0]
    if any(one.axis != first.axis or len(one.ids) != len(first.ids) for one in known):
        return False
    for slot, constant in enumerate(held):
        if constant is not None:
            if not _fits(constant, first):
                return False
            ids = _column(first.ids, first.axis)
            channels.factors.append(Factor(node, slot, ids, "makes", weight=False))
    for lane in known[1:]:
        channels.join(first.ids, lane.ids)
    return _pass(channels, node, first)


def _fits(constant: Array, lane: Lane) -> bool:
    """Whether a constant neither widens the channels nor what comes before them."""
    deep = constant.ndim < -lane.axis or constant.shape[lane.axis] in (
        1,
        len(lane.ids),
    )
    return deep and all(one == 1 for one in constant.shape[: lane.axis])


def _multiply(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    """By a constant of channels: an operator with weights. By a gate: it is pinned."""
    left, right = node.input[0], node.input[1]
    if node.op_type == "Mul" and left in view.constants:
        left, right = right, left
    slot = list(node.input).index(right)
    lane, constant = channels.lanes.get(left), view.weights(right)
    if constant is not None and constant.size > 1:
        return _multiply_channels(view, channels, node, slot)
    if lane is None and node.op_type == "Mul":
        left, right = right, left
        lane = channels.lanes.get(left)
    if lane is None or right in channels.lanes:
        return False
    shape = view.shapes.get(right)
    narrow = shape is not None and (
        len(shape) < -lane.axis or shape[lane.axis] in (1, len(lane.ids))
    )
    return narrow and _pass(channels, node, lane)


def _multiply_channels(
    view: View, channels: Channels, node: onnx.NodeProto, slot: int
) -> bool:
    constant, other = view.weights(node.input[slot]), node.input[1 - slot]
    if constant is None or (node.op_type == "Div" and slot != 1):
        return False
    wide = [at for at, size in enumerate(constant.shape) if size > 1]
    if len(wide) != 1:
        return False
    axis, count = wide[0] - constant.ndim, constant.shape[wide[0]]
    shape = view.shapes.get(other)
    if shape is None or len(shape) < constant.ndim or shape[axis] != count:
        return False
    divides = node.op_type == "Div"
    made = _make(channels, node, axis, count)
    lane = channels.lanes.get(other)
    roles: tuple[Role, Role] = ("reads", "makes") if divides else ("makes", "reads")
    factors = channels.factors
    factors.append(Factor(node, slot, _column(made, axis), roles[0], weight=False))
    if lane is not None and lane.axis == axis:
        ids = _column(lane.ids, axis)
        factors.append(Factor(node, slot, ids, roles[1], weight=False))
    elif lane is not None:
        channels.pin(lane.ids)
    return True


def _concat(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    lanes = [channels.lanes.get(name) for name in node.input]
    known = [lane for lane in lanes if lane is not None]
    rank = view.rank(node.input[0]) or view.rank(node.output[0])
    if len(known) != len(lanes) or rank is None:
        return False
    at = integer(node, "axis", 0)
    axis = at - rank if at >= 0 else at
    if any(lane.axis != known[0].axis for lane in known):
        return False
    if axis == known[0].axis:
        ids = np.concatenate([lane.ids for lane in known])
        return _pass(channels, node, Lane(axis, ids))
    for lane in known[1:]:
        channels.join(known[0].ids, lane.ids)
    return _pass(channels, node, known[0])


def _split(view: View, channels: Channels, node: onnx.NodeProto) -> bool:
    lane, rank = channels.lanes.get(node.input[0]), view.rank(node.input[0])
    if lane is None or rank is None:
        return False
    at = integer(node, "axis", 0)
    if (at - rank if at >= 0 else at) != lane.axis:
        channels.lanes.update(dict.fromkeys(node.output, lane))
        return True
    sizes = view.constant(operand(node, 1))
    if sizes is None and len(lane.ids) % len(node.output):
        return False
    even = [len(lane.ids) // len(node.output)] * len(node.output)
    ends = np.cumsum(even if sizes is None else sizes.ravel())[:-1]
    for name, ids in zip(node.output, np.split(lane.ids, ends), strict=True):
        channels.lanes[name] = Lane(lane.axis, ids)
    return True


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
        "MatMul": _matmul,
        "Gemm": _gemm,
        **dict.fromkeys(("LayerNormalization", "InstanceNormalization"), _norm),
        **dict.fromkeys(("Relu", "LeakyRelu", "Identity", "Abs", "Neg"), _same),
        **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
        **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), _pool),
        "PRelu": _prelu,
        "Clip": _clip,
        **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum"), _mean),
        "Pad": _pad,
        "Resize": _resize,
        "Transpose": _transpose,
        **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
        **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min"), _add),
        **dict.fromkeys(("Mul", "Div"), _multiply),
        "Concat": _concat,
        "Split": _split,
    }
)
"""Dropout is gone after preparation; BatchNormalization that is left pins."""
