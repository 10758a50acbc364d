"""Which channels of a graph can be scaled together without changing what it computes.

Every channel of a tensor is a variable. Operators that join tensors (Add, Concat,
pooling, activations that are positively homogeneous) make variables one; operators
with weights end one set of variables and begin another: divide a channel by ``s`` where
it is made, multiply it by ``s`` where it is read, and the function stays the same.
``rules`` says what each operator does; nothing here changes the graph.

Axes are counted from the end: what comes before the channels may be unknown.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx

from quarterdeck_controller.optimize.repair.graph import Array

Role = Literal["makes", "reads"]


@dataclass(frozen=True, slots=True)
class Lane:
    """The channels of one tensor.

    Attributes:
        axis: Where they are, from the end.
        ids: The variable of each.
    """

    axis: int
    ids: Array


@dataclass(frozen=True, slots=True)
class Factor:
    """A constant that takes part in the scaling of channels.

    Attributes:
        ids: Variables, in a shape that broadcasts with the constant.
        role: Whether the constant makes the channels or reads them.
        weight: Whether it is a weight, which is quantized, or added or multiplied.
    """

    node: onnx.NodeProto
    slot: int
    ids: Array
    role: Role
    weight: bool


@dataclass(frozen=True, slots=True)
class Bound:
    """A Clip that can only be scaled over when nothing reaches its upper end."""

    node: onnx.NodeProto
    ids: Array
    high: float


@dataclass(slots=True)
class Channels:
    """All channels of a graph; ``root`` tells which are one variable.

    Attributes:
        lanes: Channels of each tensor that has some.
        pinned: Variables that must stay as they are.
    """

    lanes: dict[str, Lane] = field(default_factory=dict)
    factors: list[Factor] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)
    _pinned: list[Array] = field(default_factory=list)

    def fresh(self, count: int) -> Array:
        """Return new variables."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def join(self, one: Array, other: Array) -> None:
        """Make variables one, pair by pair."""
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self._find(first), self._find(second)))
            self._parent[high] = low

    def pin(self, ids: Array) -> None:
        """Leave channels as they are."""
        self._pinned.append(np.ravel(ids))

    def roots(self) -> Array:
        """Return the variable that stands for each."""
        return np.array([self._find(one) for one in range(len(self._parent))], np.int64)

    def free(self) -> Array:
        """Return for each variable whether it may be scaled; ask at its root."""
        roots = self.roots()
        free = np.ones(len(roots), bool)
        for ids in self._pinned:
            free[roots[ids]] = False
        return free[roots]

    def spaces(self) -> Array:
        """Return a number for each variable: equal where a tensor holds both."""
        joined = Channels(_parent=self.roots().tolist())
        for lane in self.lanes.values():
            joined.join(np.broadcast_to(lane.ids[:1], lane.ids.shape), lane.ids)
        return joined.roots()

    def _find(self, one: int) -> int:
        parent = self._parent
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one
