"""Scale channels of a graph: divide where they are made, multiply where they are read.

Scales are given by variable; see ``channels``. In float32 the function stays the same
up to rounding.
"""

from collections.abc import Iterable

import numpy as np
import onnx

from quarterdeck_controller.optimize.repair.channels import Channels, Factor
from quarterdeck_controller.optimize.repair.graph import Array, View, replace_constant


def scale_channels(
    graph: onnx.GraphProto, channels: Channels, scales: Array
) -> tuple[str, ...]:
    """Change ``graph`` in place and return the operators whose constants changed.

    Args:
        graph: A float graph.
        channels: What was found in it; its operators are the graph's own.
        scales: By variable; equal for those that have one root.
    """
    view, changed = View.of(graph), []
    for factors in by_constant(channels.factors):
        if all((scales[factor.ids] == 1).all() for factor in factors):
            continue
        node, slot = factors[0].node, factors[0].slot
        value = view.constant(node.input[slot])
        assert value is not None, "factors are found on constants"
        scaled = value.astype(np.float64)
        for factor in factors:
            by = scales[factor.ids]
            scaled = scaled * by if factor.role == "reads" else scaled / by
        replace_constant(view, node, slot, scaled)
        changed.append(node.name)
    _release(graph, channels, scales)
    return tuple(dict.fromkeys(changed))


def ranges(value: Array, ids: Array) -> tuple[Array, Array]:
    """Return the variables of a constant's channels and their largest magnitudes.

    Args:
        value: A constant.
        ids: Variables that broadcast with it; those that occur twice are told twice.
    """
    same = tuple(at for at, size in enumerate(ids.shape) if size == 1)
    top = np.abs(value).max(axis=same, keepdims=True)
    return np.broadcast_to(ids, top.shape).ravel(), top.ravel()


def by_constant(factors: Iterable[Factor]) -> list[list[Factor]]:
    """Return the factors of each constant together."""
    groups: dict[tuple[str, int], list[Factor]] = {}
    for factor in factors:
        groups.setdefault((factor.node.name, factor.slot), []).append(factor)
    return list(groups.values())


def _release(graph: onnx.GraphProto, channels: Channels, scales: Array) -> None:
    """Take the upper end off every Clip whose channels are scaled.

    Only done where nothing came near it, see ``equalize``.
    """
    for bound in channels.bounds:
        if (scales[bound.ids] == 1).all() or np.isinf(bound.high):
            continue
        bound.node.op_type = "Relu"
        del bound.node.input[1:]
    _drop_unread(graph)


def _drop_unread(graph: onnx.GraphProto) -> None:
    view = View.of(graph)
    for at in reversed(range(len(graph.initializer))):
        name = graph.initializer[at].name
        if not view.uses[name] and name not in view.fixed:
            del graph.initializer[at]
