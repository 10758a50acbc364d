"""One graph in which every operator can be quantized alone, by one input.

Each candidate becomes an ``If``: its variant, as ``quantize.make`` writes it, when its
number is fed, else the float operator. All single-operator variants then run in one
session, and no file is built for any.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.quantize.graph import Index, subgraphs
from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.quantize.spread import Spreads
from quarterdeck_controller.optimize.quantize.treatment import (
    WEIGHT_INPUTS,
    weights_of,
)
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.repair.graph import free_name

FUSED = ("Relu", "Clip")
"""What is quantized together with the operator before it."""
NONE = -1
"""Fed to the gate, everything is float."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An operator that the recipe's kind can be given to.

    Attributes:
        bytes: Of its float weights.
    """

    name: str
    operator: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Gated:
    """The graph; feed ``gate`` the place of a candidate in ``candidates``."""

    model: onnx.ModelProto
    gate: str
    candidates: tuple[Candidate, ...]


def gate_operators(
    model: onnx.ModelProto,
    spreads: Spreads,
    recipe: Recipe,
    operators: Collection[str] = (),
) -> Gated:
    """Return ``model`` with a gate before every operator that can be quantized.

    Args:
        model: A prepared float graph; it is not changed.
        spreads: Of its tensors.
        recipe: What every operator is given, one at a time.
        operators: Operators that the class's runtime quantizes; empty is all.
    """
    gated = onnx.ModelProto()
    gated.CopyFrom(model)
    gate = free_name(gated.graph, "gate")
    work = _Work(gated, spreads, recipe, operators, gate)
    work.gate(gated.graph)
    value = helper.make_tensor_value_info(gate, TensorProto.INT64, [])
    gated.graph.input.append(value)
    return Gated(gated, gate, tuple(work.candidates))


@dataclass(slots=True)
class _Work:
    model: onnx.ModelProto
    spreads: Spreads
    recipe: Recipe
    operators: Collection[str]
    gate_name: str
    candidates: list[Candidate] = field(default_factory=list)

    def gate(self, graph: onnx.GraphProto) -> None:
        """Gate the operators of a graph and of those inside it."""
        index = Index.of(graph)
        nodes: list[onnx.NodeProto] = []
        inside: set[str] = set()
        for node in graph.node:
            if node.name in inside:
                continue
            for inner in subgraphs(node):
                self.gate(inner)
            group = _group(index, node)
            made = self._variant(index, group) if group else None
            if made is None:
                nodes.append(node)
                continue
            nodes += self._switch(index, group, made)
            inside.update(one.name for one in group[1:])
        copies = [_copy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    def _variant(
        self, index: Index, group: list[onnx.NodeProto]
    ) -> onnx.ModelProto | None:
        """Return the operator's variant as a model, or None when it can have none."""
        small = _alone(self.model, index, group)
        made = make(
            small,
            self.spreads,
            self.recipe,
            operators=self.operators,
            fold=False,
            only={group[0].name},
        )
        return made.model if set(made.treated) - {"float"} else None

    def _switch(
        self, index: Index, group: list[onnx.NodeProto], made: onnx.ModelProto
    ) -> Iterator[onnx.NodeProto]:
        number, first = len(self.candidates), group[0]
        held = [index.constant(name) for name in weights_of(first)]
        size = sum(one.nbytes for one in held if one is not None)
        self.candidates.append(Candidate(first.name, first.op_type, size))
        self._import(made)
        prefix = f"{self.gate_name}/{number}"
        plain = onnx.GraphProto(name=f"{prefix}/float")
        plain.node.extend(group)
        outputs = [name for name in group[-1].output if name]
        branches = (
            _branch(made.graph, outputs, f"{prefix}/quantized"),
            _branch(plain, outputs, f"{prefix}/float"),
        )
        constant = numpy_helper.from_array(np.array(number, np.int64), f"{prefix}/at")
        yield helper.make_node("Constant", [], [constant.name], value=constant)
        on = f"{prefix}/on"
        yield helper.make_node("Equal", [self.gate_name, constant.name], [on], on)
        yield helper.make_node(
            "If",
            [on],
            outputs,
            first.name,
            then_branch=branches[0],
            else_branch=branches[1],
        )

    def _import(self, made: onnx.ModelProto) -> None:
        known = {opset.domain for opset in self.model.opset_import}
        for opset in made.opset_import:
            if opset.domain not in known:
                self.model.opset_import.append(opset)


def _group(index: Index, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return an operator with what is fused into it; nothing when it has no weights."""
    if node.op_type not in WEIGHT_INPUTS or node.domain:
        return []
    after = index.only_reader(node.output[0])
    if after is None or after.op_type not in FUSED or after.domain:
        return [node]
    fed = [name for name in after.input[1:] if name and name not in index.constants]
    return [node] if fed else [node, after]


def _alone(
    model: onnx.ModelProto, index: Index, group: list[onnx.NodeProto]
) -> onnx.ModelProto:
    """Return a model of nothing but ``group``."""
    names = dict.fromkeys(name for node in group for name in node.input if name)
    inner = {name for node in group for name in node.output}
    constants = [index.constants[name] for name in names if name in index.constants]
    fed = [n for n in names if n not in index.constants and n not in inner]
    graph = helper.make_graph(
        group,
        "alone",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in fed],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
            for n in group[-1].output
            if n
        ],
        constants,
    )
    opsets = list(model.opset_import)
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)


def _branch(graph: onnx.GraphProto, outputs: list[str], prefix: str) -> onnx.GraphProto:
    """Return ``graph`` without inputs: it reads the graph around it by name."""
    own = {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output if name}
    names = {name: f"{prefix}/{name}" for name in own}
    branch = onnx.GraphProto(name=prefix)
    for node in graph.node:
        copy = branch.node.add()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        held = branch.initializer.add()
        held.CopyFrom(tensor)
        held.name = names[tensor.name]
    for name in outputs:
        value = helper.make_tensor_value_info(names[name], TensorProto.FLOAT, None)
        branch.output.append(value)
    return branch


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
