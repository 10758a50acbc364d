"""Write weights in fewer bytes for operators that compute in float.

A constant keeps its name: it becomes the product of a Cast and a Mul in front of the
graph that holds it, which the runtime computes once, when it loads, and nothing behind
it changes. Where the class has little memory a DequantizeLinear stands there instead,
which the runtime computes at every run. Rows of a table are gathered as integers in
both cases, and only what was gathered becomes float.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from quarterdeck_controller.optimize.quantize.graph import (
    Array,
    Index,
    all_graphs,
    copy_node,
    integer,
    is_float,
    make_node,
    size,
)
from quarterdeck_controller.optimize.quantize.integers import (
    quantize_weights,
    weight_scales,
)
from quarterdeck_controller.optimize.quantize.treatment import (
    SMALLEST,
    WEIGHT_INPUTS,
    Treated,
)
from quarterdeck_controller.optimize.recipe import Recipe, Treatment

LARGEST_HALF = 65504.0
SMALLEST_HALF = 6.2e-5
"""Magnitudes between these two keep their eleven bits as 16-bit floats."""
TO_FLOAT: Mapping[str, int] = MappingProxyType({"to": TensorProto.FLOAT})
FEW = 0.01
"""The share of smaller ones that does not matter."""


def write_weights(
    model: onnx.ModelProto,
    treated: Treated,
    recipe: Recipe,
    names: Collection[str],
    *,
    fold: bool,
    others: bool,
) -> None:
    """Shrink the constants called ``names`` that operators still read, in place.

    Args:
        model: The graph.
        treated: Of its operators.
        recipe: Which says whether scales are by channel.
        names: Of the float graph's own constants.
        fold: Write them so that the runtime makes them float once.
        others: Store large constants of other operators as 16-bit floats.
    """
    readers = _readers(model.graph)
    for graph in all_graphs(model.graph):
        writer = _Writer(graph, treated, recipe, fold, others, readers)
        for tensor in list(graph.initializer):
            if tensor.name in names and is_float(tensor) and size(tensor) >= SMALLEST:
                writer.write(tensor)
        writer.finish()


Read = tuple[NodeProto, int]


def _readers(graph: GraphProto) -> dict[str, list[Read]]:
    """Return who reads a name at which input, inside subgraphs too."""
    found: dict[str, list[Read]] = {}
    for inner in all_graphs(graph):
        for node in inner.node:
            for at, name in enumerate(node.input):
                found.setdefault(name, []).append((node, at))
    return found


@dataclass(slots=True)
class _Writer:
    graph: GraphProto
    treated: Treated
    recipe: Recipe
    fold: bool
    others: bool
    readers: dict[str, list[Read]]
    front: list[NodeProto] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    gathers: dict[str, list[NodeProto]] = field(default_factory=dict)
    index: Index = field(init=False)
    own: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.index = Index.of(self.graph)
        self.own = frozenset(node.name for node in self.graph.node)

    def write(self, tensor: TensorProto) -> None:
        """Replace one constant, if all that read it let it be."""
        reads = self.readers.get(tensor.name, [])
        if not reads or tensor.name in self.index.inputs | self.index.outputs:
            return
        wanted = {self._wanted(node, at) for node, at in reads}
        if "float" in wanted:
            return
        is_vector = len(tensor.dims) == 1  # a scale for each element saves nothing
        if wanted == {"half"} or is_vector:
            self._write_half(tensor)
        elif all(self._is_table_read(node, at) for node, at in reads):
            self._write_table(tensor, [node for node, _ in reads])
        else:
            self._write_integers(tensor, *reads[0])

    def finish(self) -> None:
        """Put the new nodes into the graph and take the old constants out."""
        if not self.replaced:
            return
        nodes = [*self.front]
        for node in self.graph.node:
            nodes += self.gathers.get(node.name, [node])
        nodes = [copy_node(node) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        kept = [t for t in self.graph.initializer if t.name not in self.replaced]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _is_table_read(self, node: NodeProto, at: int) -> bool:
        rows = node.op_type == "Gather" and at == 0 and integer(node, "axis", 0) == 0
        return rows and not node.domain and node.name in self.own

    def _wanted(self, node: NodeProto, at: int) -> Treatment:
        if at in WEIGHT_INPUTS.get(node.op_type, ()) and not node.domain:
            asked = self.treated[node]
            return asked if asked in ("half", "float") else "weights"
        return "half" if self.others else "float"

    def _write_half(self, tensor: TensorProto) -> None:
        values = numpy_helper.to_array(tensor)
        nonzero = np.abs(values[values != 0])
        if nonzero.max(initial=0) > LARGEST_HALF or not np.isfinite(nonzero).all():
            return
        if self.others and (nonzero < SMALLEST_HALF).sum() > FEW * nonzero.size:
            return
        name = f"{tensor.name}_half"
        self._constant(name, values.astype(np.float16))
        self._front("Cast", [name], tensor.name, TO_FLOAT)
        self._drop(tensor)

    def _write_integers(self, tensor: TensorProto, node: NodeProto, at: int) -> None:
        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all():
            return
        axis = _axis(node, at, values) if self.recipe.per_channel else None
        found = quantize_weights(values, weight_scales(values, axis), axis)
        integers, scale = f"{tensor.name}_quantized", f"{tensor.name}_scale"
        self._constant(integers, found.integers)
        if self.fold:
            self._constant(scale, found.broadcast_scales())
            middle = f"{tensor.name}_cast"
            self._front("Cast", [integers], middle, TO_FLOAT)
            self._front("Mul", [middle, scale], tensor.name)
        else:
            self._constant(scale, found.scales)
            attributes = {} if axis is None else {"axis": axis}
            self._front("DequantizeLinear", [integers, scale], tensor.name, attributes)
        self._drop(tensor)

    def _write_table(self, tensor: TensorProto, gathers: list[NodeProto]) -> None:
        """Store a table by rows, each with a scale that is gathered with it."""
        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all():
            return
        found = quantize_weights(values, weight_scales(values, 0), 0)
        integers, scale = f"{tensor.name}_quantized", f"{tensor.name}_scale"
        self._constant(integers, found.integers)
        self._constant(scale, found.broadcast_scales())
        for node in gathers:
            self.gathers[node.name] = _gather_rows(node, integers, scale)
        self._drop(tensor)

    def _drop(self, tensor: TensorProto) -> None:
        """Give its memory back now; ``finish`` takes what is left out of the graph."""
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        self.replaced.add(tensor.name)

    def _constant(self, name: str, values: Array) -> None:
        self.graph.initializer.append(numpy_helper.from_array(values, name))

    def _front(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        attributes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        name = f"{output}_{operator}"
        made = make_node(operator, inputs, [output], name=name, attributes=attributes)
        self.front.append(made)


def _gather_rows(node: NodeProto, integers: str, scale: str) -> list[NodeProto]:
    out, indices = node.output[0], node.input[1]
    rows, cast, scales = f"{out}_rows", f"{out}_cast", f"{out}_scales"
    return [
        make_node("Gather", [integers, indices], [rows], name=node.name),
        make_node("Gather", [scale, indices], [scales], name=scales),
        make_node("Cast", [rows], [cast], name=cast, attributes=TO_FLOAT),
        make_node("Mul", [cast, scales], [out], name=f"{out}_mul"),
    ]


def _axis(node: NodeProto, at: int, values: Array) -> int | None:
    """Return the axis of the output channels of weights at input ``at``."""
    if node.op_type == "MatMul":
        return values.ndim - 1 if at == 1 else max(values.ndim - 2, 0)
    if node.op_type == "Gemm":
        return 0 if integer(node, "transB", 0) else 1
    if node.op_type in ("LSTM", "GRU", "RNN", "ConvTranspose"):
        return 1
    return 0
