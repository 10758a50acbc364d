"""Decide which tensors flow in integers between the operators that are static.

Convolutions give out integers. A matrix product does when all that read it take them;
else the runtime's kernel gives out floats, which is more exact and saves a conversion.
Operators that only move values, and in the scope ``elementwise`` those with an integer
kernel of their own, join where their inputs are integers already and what follows takes
integers: alone between floats they would only add conversions. One exception: what
moves integers to a branch moves them as integers. Everything here is pure.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto

from quarterdeck_controller.optimize.quantize.graph import Index, is_float
from quarterdeck_controller.optimize.quantize.spread import Spreads
from quarterdeck_controller.optimize.quantize.treatment import Treated
from quarterdeck_controller.optimize.recipe import Recipe

MOVERS = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""They give out values that they take in: the same grid on both sides."""
CARRIED = (*MOVERS, "Slice")
"""The runtime moves a DequantizeLinear past them when it loads. Where what they give
out is read inside a branch or a loop it then ends the process (onnxruntime 1.32), so
they get integers of their own there, which leaves nothing to move."""
JOINING: Mapping[str, int] = {
    "Add": 2,
    "Mul": 2,
    "AveragePool": 1,
    "GlobalAveragePool": 1,
    "Sigmoid": 1,
    "LeakyRelu": 1,
    "Concat": 1 << 16,
}
"""Operators with an integer kernel, and how many of their inputs are quantized."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What flows in integers.

    Attributes:
        readers: The operators that compute in integers, with the inputs that they
            take so, constants included.
        made: Tensors that are made in integers, with their type.
        same_grid: Tensors that have the grid of another, which movers gave them.
        joined: How many operators joined those that the recipe treats.
    """

    readers: Mapping[str, tuple[str, ...]]
    made: Mapping[str, str]
    same_grid: Mapping[str, str]
    joined: int

    def root(self, name: str) -> str:
        """Return the tensor whose range decides the grid of ``name``."""
        while name in self.same_grid:
            name = self.same_grid[name]
        return name


def flow(
    graph: GraphProto,
    treated: Treated,
    spreads: Spreads,
    recipe: Recipe,
    operators: Collection[str] = (),
) -> Flow:
    """Return what flows in integers in ``graph``."""
    work = _Work(Index.of(graph), treated, spreads, recipe, frozenset(operators))
    work.settle()
    return work.flow()


def activation_type(recipe: Recipe) -> str:
    """Return the type of static activations."""
    return "uint8" if recipe.scheme[0] == "u" else "int8"


@dataclass(slots=True)
class _Work:
    index: Index
    treated: Treated
    spreads: Spreads
    recipe: Recipe
    operators: frozenset[str]
    heavy: dict[str, NodeProto] = field(init=False)
    joining: dict[str, NodeProto] = field(init=False)
    moving: dict[str, NodeProto] = field(init=False)
    captive: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.index.graph.node
        self.heavy = {
            node.name: node
            for node in nodes
            if self.treated[node] in ("static", "wide")
        }
        self.joining = {n.name: n for n in nodes if self._may_join(n)}
        self.captive = self._captive()
        self.moving = {n.name: n for n in nodes if self._may_move(n)}

    def settle(self) -> None:
        """Leave only operators that stand between integers; the largest such set."""
        while True:
            made = self.made()
            left = [n for n in self.joining.values() if not self._belongs(n, made)]
            left += [n for n in self.moving.values() if not self._belongs(n, made)]
            if not left:
                return
            for node in left:
                self.joining.pop(node.name, None)
                self.moving.pop(node.name, None)

    def flow(self) -> Flow:
        made = self.made()
        readers = {
            name: self._taken(node)
            for name, node in (*self.heavy.items(), *self.joining.items())
        }
        same = {n.output[0]: n.input[0] for n in self.moving.values()}
        same |= {
            node.output[0]: self._end(node)
            for node in (*self.heavy.values(), *self.joining.values())
            if node.output[0] in made and node.output[0] != self._end(node)
        }
        return Flow(readers, made, same, len(self.joining))

    def made(self) -> dict[str, str]:
        """Return the tensors that are made in integers, with their types."""
        static = activation_type(self.recipe)
        found: dict[str, str] = {}
        for node in self.index.graph.node:
            if node.name in self.heavy and self._gives_integers(node):
                wide = self.treated[node] == "wide"
                self._mark(node, "uint16" if wide else static, found)
            elif node.name in self.joining:
                self._mark(node, static, found)
            elif node.name in self.moving and node.input[0] in found:
                found[node.output[0]] = found[node.input[0]]
        return found

    def _mark(self, node: NodeProto, dtype: str, found: dict[str, str]) -> None:
        """Note what ``node`` makes, before and after the activation that follows it.

        A grid that starts at zero does what a Relu does, so only the tensor after it
        is quantized. One with zero in its middle does not: the runtime's kernel then
        needs its own output quantized too, on the same grid, which loses nothing.
        """
        found[self._end(node)] = dtype
        if self.recipe.symmetric:
            found[str(node.output[0])] = dtype

    def _gives_integers(self, node: NodeProto) -> bool:
        end = self._end(node)
        if node.op_type not in ("MatMul", "Gemm") or self.operators:
            return self._is_known(end)
        seen_in_float = end in self.index.outputs or end in self.index.captured
        readers = self.index.readers.get(end, [])
        return (
            self._is_known(end)
            and bool(readers)
            and not seen_in_float
            and all(self._takes_integers(reader) for reader in readers)
        )

    def _takes_integers(self, node: NodeProto) -> bool:
        return any(
            node.name in group for group in (self.heavy, self.joining, self.moving)
        )

    def _belongs(self, node: NodeProto, made: Mapping[str, str]) -> bool:
        flowing = [n for n in self._taken(node) if n not in self.index.constants]
        types = {made.get(name) for name in flowing}
        same = len(types) == 1 and None not in types
        if node.name in self.joining:
            same = types == {activation_type(self.recipe)}
        if node.name in self.captive:
            return same
        readers = self.index.readers.get(self._end(node), [])
        return same and any(self._takes_integers(reader) for reader in readers)

    def _taken(self, node: NodeProto) -> tuple[str, ...]:
        """Return the inputs that ``node`` takes as activations."""
        count = JOINING.get(node.op_type, 2 if node.op_type == "MatMul" else 1)
        return tuple(dict.fromkeys(node.input[:count]))

    def _end(self, node: NodeProto) -> str:
        """Return what ``node`` gives out after the activation fused into it."""
        after = self._fused(node)
        return str((after or node).output[0])

    def _fused(self, node: NodeProto) -> NodeProto | None:
        """Return the Relu or Clip that costs nothing because the grid starts at 0."""
        if node.name in self.moving:
            return None
        after = self.index.only_reader(node.output[0])
        if after is None or not self._is_known(after.output[0]):
            return None
        if after.op_type == "Relu" and not after.domain:
            return after
        if after.op_type != "Clip" or after.domain or len(after.input) == 1:
            return None
        least = self.index.constant(after.input[1])
        return after if least is not None and float(least.reshape(())) == 0 else None

    def _may_join(self, node: NodeProto) -> bool:
        if node.op_type not in JOINING or node.domain:
            return False
        asked = dict(self.recipe.overrides).get(node.name)
        wanted = self.recipe.kind == "static" and self.recipe.scope == "elementwise"
        if not (wanted if asked is None else asked == "static"):
            return False
        if self.operators and node.op_type not in self.operators:
            return False
        return all(
            self._is_known(name) for name in (*self._taken(node), node.output[0])
        )

    def _captive(self) -> frozenset[str]:
        """Return the operators that only move values until a subgraph reads them."""
        found: set[str] = set()
        reached = set(self.index.captured)
        for node in reversed(self.index.graph.node):
            if (
                node.op_type in CARRIED
                and not node.domain
                and node.output[0] in reached
            ):
                found.add(node.name)
                reached.add(node.input[0])
        return frozenset(found)

    def _may_move(self, node: NodeProto) -> bool:
        if node.name in self.captive:
            return True
        if node.op_type not in MOVERS or node.domain or len(node.output) > 1:
            return False
        return self._is_known(node.output[0]) and self._is_known(node.input[0])

    def _is_known(self, name: str) -> bool:
        if name in self.index.constants:
            return is_float(self.index.constants[name])
        return name in self.spreads and self.spreads[name].quantizable
