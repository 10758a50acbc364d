"""Decide which treatment each operator gets, and why not the one that was asked for.

A recipe asks for one treatment and names exceptions. What an operator cannot have (an
activation of unknown range, weights that are no constants, a mask at its input) it
does not get: then it has the recipe's treatment for the rest, which only needs weights.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto

from quarterdeck_controller.optimize.quantize.graph import (
    Index,
    indexed,
    integer,
    is_float,
    named_input,
    size,
)
from quarterdeck_controller.optimize.quantize.spread import Spreads
from quarterdeck_controller.optimize.recipe import Recipe, Treatment

SMALLEST = 256
"""Weights of fewer elements stay in float: integers would save nothing."""

PRODUCTS = ("Conv", "MatMul", "Gemm")
"""What the runtime's integer kernels compute."""
ACCELERATED = (*PRODUCTS, "ConvTranspose")
"""What a class may compute in integers when its profile says so by name."""

WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "MatMul": (1, 0),
    "Gemm": (1,),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""Which inputs hold weights; of a matrix product either."""


@dataclass(frozen=True, slots=True)
class Treated:
    """What is done to every operator that holds weights or multiplies.

    Attributes:
        by_name: The treatment of an operator, in the graph's order.
        notes: Why operators did not get the treatment that was asked for.
    """

    by_name: Mapping[str, Treatment]
    notes: tuple[str, ...]

    def __getitem__(self, node: NodeProto) -> Treatment:
        return self.by_name.get(node.name, "float")


def treatments(
    graph: GraphProto,
    spreads: Spreads,
    recipe: Recipe,
    *,
    operators: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Treated:
    """Return the treatment of every operator.

    Args:
        graph: A prepared float graph.
        spreads: Of its tensors.
        recipe: What is asked for.
        operators: Those that the class quantizes; empty is all.
        only: Operators that get the recipe's kind while everything else stays in
            float; None is all.
    """
    asked = _Asked(recipe, spreads, frozenset(operators), only)
    found: dict[str, Treatment] = {}
    for inner, index in indexed(graph):
        for node in inner.node:
            if node.op_type in WEIGHT_INPUTS and not node.domain:
                found[node.name] = asked.treat(node, index, main=inner is graph)
    return Treated(found, tuple(asked.notes))


@dataclass(slots=True)
class _Asked:
    recipe: Recipe
    spreads: Spreads
    operators: frozenset[str]
    only: Collection[str] | None
    notes: list[str] = field(default_factory=list)
    overrides: Mapping[str, Treatment] = field(init=False)

    def __post_init__(self) -> None:
        self.overrides = dict(self.recipe.overrides)

    def treat(self, node: NodeProto, index: Index, *, main: bool) -> Treatment:
        asked = self._asked_for(node)
        why_not = self._why_not(asked, node, index, main=main)
        if why_not is None:
            return asked
        if self.only is not None:
            return "float"
        if why_not:
            self.notes.append(f"{node.name} is not {asked}: {why_not}")
        for other in (self.recipe.rest, "weights"):
            if asked != "weights" and self.recipe.rest == "float":
                break
            if self._why_not(other, node, index, main=main) is None:
                return other
        return "float"

    def _asked_for(self, node: NodeProto) -> Treatment:
        kind: Treatment = "float" if self.recipe.kind == "fp16" else self.recipe.kind
        if self.only is not None:
            return kind if node.name in self.only else "float"
        return self.overrides.get(node.name, kind)

    def _why_not(
        self, asked: Treatment, node: NodeProto, index: Index, *, main: bool
    ) -> str | None:
        """Return None when it can be done; else why not, or "" when that is plain."""
        if asked == "float":
            return None
        if asked in ("static", "wide"):
            return self._why_not_static(node, index, main=main)
        if not any(_is_weights(index, name) for name in weights_of(node)):
            return ""
        if asked == "dynamic":
            return why_not_dynamic(node, index)
        if asked == "weights4":
            return None if why_not_dynamic(node, index) is None else ""
        return None

    def _why_not_static(
        self, node: NodeProto, index: Index, *, main: bool
    ) -> str | None:
        allowed = self.operators & set(ACCELERATED) if self.operators else PRODUCTS
        if node.op_type not in allowed:
            return ""
        if not main:
            return "it is inside a control-flow operator, where no ranges are known"
        why_not = why_not_static_inputs(node, index)
        return self._why_not_ranges(node, index) if why_not is None else why_not

    def _why_not_ranges(self, node: NodeProto, index: Index) -> str | None:
        both = node.op_type == "MatMul"
        flowing = [*node.input[: 2 if both else 1], node.output[0]]
        for name in flowing:
            if name in index.constants:
                continue
            spread = self.spreads.get(name)
            if spread is None:
                return f"nothing is known of {name}"
            if not spread.quantizable:
                return f"{name} reaches {spread.low:.3g} to {spread.high:.3g}"
        return None


def weights_of(node: NodeProto) -> Iterator[str]:
    """Yield the inputs of ``node`` that may hold weights."""
    for at in WEIGHT_INPUTS.get(node.op_type, ()):
        if at < len(node.input):
            yield node.input[at]


def why_not_static_inputs(node: NodeProto, index: Index) -> str | None:
    """Return why the integer kernel of ``node`` cannot take its inputs, or None."""
    constant = [name in index.constants for name in node.input]
    floats = all(
        is_float(index.constants[name])
        for name in node.input
        if name in index.constants
    )
    if not floats:
        return "it does not compute in 32-bit floats"
    if node.op_type == "MatMul":
        return "" if all(constant) else None
    if constant[0]:
        return ""
    if not all(constant[1:]):
        return "its weights or its bias are no constants"
    return None if node.op_type != "Gemm" else _why_not_gemm(node, index)


def why_not_dynamic(node: NodeProto, index: Index) -> str | None:
    """Return why ``node`` cannot be a product with an integer matrix, or None."""
    if node.op_type not in ("MatMul", "Gemm"):
        return ""
    if node.input[1] not in index.constants or node.input[0] in index.constants:
        return "its right side is no constant"
    tensor = index.constants[node.input[1]]
    rows_and_columns = 2
    if len(tensor.dims) != rows_and_columns or not is_float(tensor):
        return "its weights are no matrix of 32-bit floats"
    return None if node.op_type != "Gemm" else _why_not_gemm(node, index)


def _why_not_gemm(node: NodeProto, index: Index) -> str | None:
    if integer(node, "transA", 0):
        return "its left side is transposed"
    if named_input(node, 2):
        bias = index.constants.get(node.input[2])
        weights = index.constants[node.input[1]]
        columns = weights.dims[0 if integer(node, "transB", 0) else 1]
        if bias is None or size(bias) not in (1, columns):
            return "its bias is no constant vector"
        if len(bias.dims) > 1 and bias.dims[-1] != size(bias):
            return "its bias is a column"
    return None


def _is_weights(index: Index, name: str) -> bool:
    tensor = index.constants.get(name)
    return tensor is not None and is_float(tensor) and size(tensor) >= SMALLEST
