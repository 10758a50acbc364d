"""Write the CPU's integer operators themselves instead of leaving them to be fused.

It starts from the graph with QuantizeLinear and DequantizeLinear. An operator between
them becomes the one that takes integers, scales and zero points; operators that only
move values move integers. What has no such operator stays as it is, and the runtime
treats it as in the other format.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto
from onnx.numpy_helper import to_array

from quarterdeck_controller.optimize.quantize.flow import MOVERS
from quarterdeck_controller.optimize.quantize.graph import (
    Index,
    copy_node,
    make_node,
    named_input,
)

CONTRIB = "com.microsoft"
NARROW = (TensorProto.UINT8, TensorProto.INT8)
FUSED = ("Relu", "Clip")


def to_qoperator(model: onnx.ModelProto) -> None:
    """Replace in ``model``, in place, what has an integer operator."""
    writer = _Writer(Index.of(model.graph))
    nodes = writer.nodes()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unread(model.graph)
    if all(found.domain != CONTRIB for found in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))


@dataclass(frozen=True, slots=True)
class _Integers:
    """A quantized tensor: names of its integers, scale and zero point."""

    name: str
    scale: str
    zero: str

    @property
    def all(self) -> tuple[str, str, str]:
        return self.name, self.scale, self.zero

    @property
    def grid(self) -> tuple[str, str]:
        return self.scale, self.zero


@dataclass(slots=True)
class _Writer:
    index: Index
    gone: set[str] = field(default_factory=set)

    def nodes(self) -> list[NodeProto]:
        """Return the graph's operators, rewritten where possible."""
        written = {node.name: self._write(node) for node in self.index.graph.node}
        found = []
        for node in self.index.graph.node:
            new = written[node.name]
            if node.name not in self.gone:
                found.append(copy_node(node) if new is None else new)
        return found

    def _write(self, node: NodeProto) -> NodeProto | None:
        write = _WRITERS.get(node.op_type)
        if write is None or node.domain:
            return None
        taken = [self._taken(name) for name in node.input if name]
        count = 1 if node.op_type in MOVERS else len(taken)
        inputs = [found for found in taken[:count] if found is not None]
        if len(inputs) < count:
            return None
        steps, made = self._made(node)
        if node.op_type in MOVERS and not (made and self._same(inputs[0], made)):
            return None
        new = write(node, inputs, made)
        if new is not None:
            new.name = node.name
            self.gone |= {step.name for step in steps}
        return new

    def _taken(self, name: str) -> _Integers | None:
        """Return what ``name`` is before its DequantizeLinear."""
        maker = self.index.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear" or maker.domain:
            return None
        return _Integers(*maker.input)

    def _same(self, one: _Integers, other: _Integers) -> bool:
        """Tell whether two tensors have one grid."""
        tensors = self.index.constants
        pairs = zip(one.grid, other.grid, strict=True)
        return all(
            np.array_equal(to_array(tensors[a]), to_array(tensors[b])) for a, b in pairs
        )

    def _made(self, node: NodeProto) -> tuple[list[NodeProto], _Integers | None]:
        """Return the operators up to the QuantizeLinear, and what it makes."""
        steps, name = [], str(node.output[0])
        while (reader := self.index.only_reader(name)) is not None:
            steps.append(reader)
            name = str(reader.output[0])
            if reader.op_type == "QuantizeLinear":
                _, scale, zero = reader.input
                narrow = self.index.constants[zero].data_type in NARROW
                made = _Integers(name, scale, zero)
                return (steps, made) if narrow and not reader.domain else ([], None)
            if reader.op_type not in FUSED or node.op_type in MOVERS:
                break
        return [], None


Write = Callable[[NodeProto, list[_Integers], _Integers | None], NodeProto | None]


def _conv(
    node: NodeProto, inputs: list[_Integers], made: _Integers | None
) -> NodeProto | None:
    if made is None:
        return None
    bias = [one.name for one in inputs[2:]]
    return _like(
        node,
        "QLinearConv",
        [*inputs[0].all, *inputs[1].all, *made.grid, *bias],
        made,
        domain="",
    )


def _matmul(
    node: NodeProto, inputs: list[_Integers], made: _Integers | None
) -> NodeProto | None:
    if made is None:
        return None
    names = [*inputs[0].all, *inputs[1].all, *made.grid]
    return _like(node, "QLinearMatMul", names, made, domain="")


def _gemm(
    node: NodeProto, inputs: list[_Integers], made: _Integers | None
) -> NodeProto | None:
    left, right, *bias = inputs
    names = [*left.all, *right.all, bias[0].name if bias else ""]
    names += made.grid if made else ()
    return _like(node, "QGemm", names, made)


def _two(
    node: NodeProto, inputs: list[_Integers], made: _Integers | None
) -> NodeProto | None:
    if made is None or len(inputs) == 1:
        return None
    names = [*inputs[0].all, *inputs[1].all, *made.grid]
    return _like(node, f"QLinear{node.op_type}", names, made)


def _one(
    node: NodeProto, inputs: list[_Integers], made: _Integers | None
) -> NodeProto | None:
    if made is None:
        return None
    names = [*inputs[0].all, *made.grid]
    return _like(node, f"QLinear{node.op_type}", names, made)


def _concat(
    node: NodeProto, inputs: list[_Integers], made: _Integers | None
) -> NodeProto | None:
    if made is None:
        return None
    parts = [name for found in inputs for name in found.all]
    return _like(node, "QLinearConcat", [*made.grid, *parts], made)


def _mover(
    node: NodeProto, inputs: list[_Integers], made: _Integers | None
) -> NodeProto | None:
    names = [inputs[0].name, *(named_input(node, 1) for _ in node.input[1:])]
    return _like(node, node.op_type, names, made, domain="")


_WRITERS: Mapping[str, Write] = {
    "Conv": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Add": _two,
    "Mul": _two,
    "AveragePool": _one,
    "GlobalAveragePool": _one,
    "Sigmoid": _one,
    "LeakyRelu": _one,
    "Concat": _concat,
    **dict.fromkeys(MOVERS, _mover),
}


def _like(
    node: NodeProto,
    operator: str,
    inputs: list[str],
    made: _Integers | None,
    domain: str = CONTRIB,
) -> NodeProto:
    output = str(node.output[0]) if made is None else made.name
    new = make_node(operator, inputs, [output], name=node.name, domain=domain)
    new.attribute.extend(node.attribute)
    return new


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Delete every DequantizeLinear that nothing reads any more."""
    index = Index.of(graph)
    kept = [
        copy_node(node)
        for node in graph.node
        if node.op_type != "DequantizeLinear"
        or node.output[0] in index.readers
        or node.output[0] in index.captured
        or node.output[0] in index.outputs
    ]
    del graph.node[:]
    graph.node.extend(kept)
