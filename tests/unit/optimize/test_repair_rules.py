"""Whatever scales the free channels are given, the graph computes the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from quarterdeck_controller.optimize.data.stored import Array
from quarterdeck_controller.optimize.repair.observe import open_graph
from quarterdeck_controller.optimize.repair.rules import find_channels
from quarterdeck_controller.optimize.repair.scaling import scale_channels
from tests.support.unbalanced import bottlenecks, model_of

C = 6
IMAGE = ("n", C, 8, 8)
Nodes = Sequence[tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]]

JOINS: dict[str, Nodes] = {
    "relu": [("Relu", ["a"], ["m"], {})],
    "leaky relu": [("LeakyRelu", ["a"], ["m"], {"alpha": 0.1})],
    "prelu": [("PRelu", ["a", "slope"], ["m"], {})],
    "max pool": [("MaxPool", ["a"], ["m"], {"kernel_shape": [2, 2]})],
    "average pool": [("AveragePool", ["a"], ["m"], {"kernel_shape": [2, 2]})],
    "pad": [("Pad", ["a", "pads"], ["m"], {})],
    "resize": [("Resize", ["a", "", "sizes"], ["m"], {"mode": "nearest"})],
    "residual sum": [
        ("Conv", ["a", "square"], ["b"], {}),
        ("Add", ["a", "b"], ["m"], {}),
    ],
    "sum with a constant": [("Add", ["a", "by_channel"], ["m"], {})],
    "sum with one number": [("Add", ["one", "a"], ["m"], {})],
    "difference from a constant": [("Sub", ["by_channel", "a"], ["m"], {})],
    "product with a constant": [("Mul", ["a", "by_channel"], ["m"], {})],
    "quotient by a constant": [("Div", ["a", "by_channel"], ["m"], {})],
    "product with one number": [("Mul", ["a", "one"], ["m"], {})],
    "maximum with a constant": [("Max", ["a", "by_channel"], ["m"], {})],
    "gate": [
        ("GlobalAveragePool", ["a"], ["p"], {}),
        ("Conv", ["p", "square"], ["q"], {}),
        ("Sigmoid", ["q"], ["g"], {}),
        ("Mul", ["a", "g"], ["m"], {}),
    ],
    "two halves": [
        ("Split", ["a"], ["l", "r"], {"axis": 1}),
        ("Concat", ["r", "l"], ["m"], {"axis": 1}),
    ],
    "transposed twice": [
        ("Transpose", ["a"], ["b"], {"perm": [0, 2, 3, 1]}),
        ("Add", ["b", "row"], ["c"], {}),
        ("Transpose", ["c"], ["m"], {"perm": [0, 3, 1, 2]}),
    ],
    "flat and back": [
        ("Reshape", ["a", "flat"], ["b"], {}),
        ("Reshape", ["b", "back"], ["m"], {}),
    ],
    "grouped": [("Conv", ["a", "grouped", "bias"], ["m"], {"group": 2})],
    "depthwise": [("Conv", ["a", "depthwise", "bias"], ["m"], {"group": C})],
    "transposed convolution": [
        ("ConvTranspose", ["a", "up", "bias"], ["m"], {"group": 2})
    ],
}
PINS: dict[str, Nodes] = {
    "sigmoid": [("Sigmoid", ["a"], ["m"], {})],
    "power of itself": [("Mul", ["a", "a"], ["m"], {})],
    "softmax over channels": [("Softmax", ["a"], ["m"], {"axis": 1})],
    "one over it": [("Div", ["one", "a"], ["m"], {})],
    "sum with what is not known": [
        ("Sigmoid", ["a"], ["b"], {}),
        ("Add", ["a", "b"], ["m"], {}),
    ],
    "reversed channels": [("Gather", ["a", "order"], ["m"], {"axis": 1})],
}


def _net(join: Nodes) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    held = {
        "first": rng.normal(size=(C, C, 3, 3)),
        "first_b": rng.normal(size=C),
        "last": rng.normal(size=(4, C, 1, 1)),
        "square": rng.normal(size=(C, C, 1, 1)),
        "grouped": rng.normal(size=(C, C // 2, 1, 1)),
        "depthwise": rng.normal(size=(C, 1, 3, 3)),
        "up": rng.normal(size=(C, C // 2, 2, 2)),
        "bias": rng.normal(size=C),
        "by_channel": rng.uniform(0.5, 2, (C, 1, 1)),
        "slope": rng.uniform(0.1, 0.3, (C, 1, 1)),
        "row": rng.normal(size=C),
        "one": np.array(0.7),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first", "first_b"], ["a"], "first_op"),
        *(
            helper.make_node(kind, inputs, outputs, f"{kind}_{at}", **more)
            for at, (kind, inputs, outputs, more) in enumerate(join)
        ),
        helper.make_node("Conv", ["m", "last"], ["y"], "last_op"),
    ]
    model = model_of(nodes, held, {"x": IMAGE}, {"y": ("n", 4, "h", "w")})
    whole = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "flat": np.array([0, C, 36]),
        "back": np.array([0, C, 6, 6]),
        "order": np.arange(C)[::-1].copy(),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.int64), k) for k, v in whole.items()
    )
    sizes = np.array([1, 1, 2, 2], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(sizes, "sizes"))
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def _scaled(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    channels = find_channels(copy.graph)
    drawn = np.exp(np.random.default_rng(1).uniform(-2, 2, len(channels.roots())))
    scales = np.where(channels.free(), drawn, 1.0)[channels.roots()]
    return copy, scale_channels(copy.graph, channels, scales)


def _output(model: onnx.ModelProto) -> Array:
    x = np.random.default_rng(2).normal(size=(3, C, 8, 8)).astype(np.float32)
    found: Array = np.asarray(open_graph(model).run(None, {"x": x})[0])
    return found


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_scaled_channels_leave_the_function_as_it_is(join: Nodes) -> None:
    model = _net(join)
    scaled, changed = _scaled(model)

    assert {"first_op", "last_op"} <= set(changed)
    np.testing.assert_allclose(_output(scaled), _output(model), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("join", PINS.values(), ids=PINS)
def test_what_is_not_homogeneous_or_not_known_pins_its_channels(join: Nodes) -> None:
    model = _net(join)
    scaled, changed = _scaled(model)

    assert "first_op" not in changed
    np.testing.assert_array_equal(_output(scaled), _output(model))


def test_a_residual_chain_is_one_space() -> None:
    channels = find_channels(bottlenecks().graph)
    roots = channels.roots()
    chain = [roots[channels.lanes[f"t{at}"].ids].tolist() for at in range(4)]

    assert chain == [chain[0]] * 4


def test_weights_that_two_operators_share_are_scaled_apart() -> None:
    model = _net([("Conv", ["a", "square"], ["b"], {}), ("Relu", ["b"], ["m"], {})])
    second = model.graph.node[1]
    extra = helper.make_node("Conv", ["m", "square"], ["k"], "shared")
    model.graph.node.insert(3, extra)
    model.graph.node[4].input[0] = "k"
    scaled, changed = _scaled(model)

    assert {second.name, "shared"} <= set(changed)
    np.testing.assert_allclose(_output(scaled), _output(model), rtol=2e-3, atol=2e-4)


def test_what_a_subgraph_reads_stays_as_it_is() -> None:
    model = _net([("Relu", ["a"], ["m"], {})])
    floats = onnx.TensorProto.FLOAT
    branch = helper.make_graph(
        [helper.make_node("Identity", ["m"], ["inner"], "inside")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", floats, None)],
    )
    on = numpy_helper.from_array(np.ones((), bool), "on")
    model.graph.initializer.append(on)
    chosen = helper.make_node(
        "If", ["on"], ["picked"], "if_op", then_branch=branch, else_branch=branch
    )
    model.graph.node.insert(2, chosen)
    model.graph.output.append(helper.make_tensor_value_info("picked", floats, None))
    _, changed = _scaled(model)

    assert changed == ()
