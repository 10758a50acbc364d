"""Small graphs to prepare, and what must hold of everything that was prepared."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_controller.optimize.data.stored import Stored, Writer
from quarterdeck_controller.optimize.intake.equal import furthest, outputs_of
from quarterdeck_controller.optimize.intake.graph import walk
from quarterdeck_controller.optimize.intake.prepare import prepare
from quarterdeck_controller.optimize.steps import (
    Node,
    Prepared,
    PrepareRequest,
)

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


def weight(name: str, *shape: int) -> TensorProto:
    return constant(name, RNG.standard_normal(shape).astype(np.float32))


def constant(name: str, array: Array) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def build(
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto] = (),
    *,
    shape: Shape = ("n", 8),
    opset: int = 17,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def features(*shape: int, count: int = 6) -> dict[str, Array]:
    return {"x": RNG.standard_normal((count, *(shape or (8,)))).astype(np.float32)}


def store(
    folder: Path, samples: dict[str, Array], whole: frozenset[str] = frozenset()
) -> Path:
    with Writer(folder / "samples", whole) as writer:
        writer.add(samples)
    return folder / "samples"


def prepared(
    model: onnx.ModelProto,
    samples: dict[str, Array],
    folder: Path,
    whole: frozenset[str] = frozenset(),
) -> tuple[Prepared, onnx.ModelProto]:
    """Prepare, and check what must hold of everything that was prepared."""
    path, out = folder / "model.onnx", folder / "prepared.onnx"
    path.write_bytes(model.SerializeToString())
    stored = store(folder, samples, whole)
    answer = prepare(PrepareRequest(model=path, out=out, samples=stored))
    made = onnx.load(out)
    onnx.checker.check_model(made)
    names = [node.name for node in walk(made.graph)]
    assert all(names)
    assert len(set(names)) == len(names)
    assert {node.name for node in answer.nodes} <= set(names)
    return answer, made


def same(folder: Path) -> float:
    samples = Stored.open(folder / "samples")
    feeds = [samples.sample(row) for row in range(samples.count)]
    return furthest(
        outputs_of(folder / "model.onnx", feeds),
        outputs_of(folder / "prepared.onnx", feeds),
    )


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in walk(model.graph)]


def only(answer: Prepared) -> Node:
    (node,) = answer.nodes
    return node


def branch(operator: str) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight("", 8, 300)),
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node(operator, ["h"], ["o"]),
    ]
    given = helper.make_tensor_value_info("o", FLOAT, ["n", 300])
    return helper.make_graph(nodes, operator, [], [given])


def branching() -> onnx.ModelProto:
    return build(
        [
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "c"], ["yes"], name="more"),
            helper.make_node(
                "If",
                ["yes"],
                ["y"],
                name="choice",
                then_branch=branch("Relu"),
                else_branch=branch("Tanh"),
            ),
        ],
        [constant("c", np.array(1.5, np.float32))],
    )
