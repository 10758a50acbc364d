"""Operators in PyTorch give what the runtime gives. Needs PyTorch."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_shared.errors import RejectedError

pytest.importorskip("torch", reason="training is an optional extra that needs PyTorch")

from quarterdeck_controller.optimize.train.exactness import check_exactness

RNG = np.random.default_rng(0)
Array = NDArray[Any]


def drawn(*shape: int) -> Array:
    return np.asarray(RNG.normal(size=shape), np.float32)


def whole(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


IMAGE, ROWS, STEPS = (2, 4, 7, 6), (3, 5), (5, 2, 3)
NONE = np.array([], np.float32)
SCALES = np.array([1, 1, 2, 1.5], np.float32)
Case = tuple[str, tuple[int, ...], list[Array | None], dict[str, Any]]

CASES: list[Case] = [
    ("Conv", IMAGE, [drawn(6, 2, 3, 3), drawn(6)], {"group": 2, "pads": [1, 0, 2, 1]}),
    ("Conv", IMAGE, [drawn(6, 4, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("ConvTranspose", IMAGE, [drawn(4, 3, 3, 3)], {"strides": [2, 2], "pads": [1] * 4}),
    ("ConvTranspose", IMAGE, [drawn(4, 3, 2, 2), drawn(3)], {"strides": [2, 2]}),
    ("Gemm", ROWS, [drawn(4, 5), drawn(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [2, 1, 0, 1]}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0]}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [1] * 4}),
    ("InstanceNormalization", IMAGE, [drawn(4), drawn(4)], {}),
    ("LayerNormalization", ROWS, [drawn(5), drawn(5)], {}),
    ("LRN", IMAGE, [], {"size": 3}),
    ("PRelu", IMAGE, [drawn(4, 1, 1)], {}),
    ("HardSigmoid", ROWS, [], {}),
    ("Selu", ROWS, [], {}),
    ("Resize", IMAGE, [NONE, SCALES], {"mode": "nearest"}),
    ("Resize", IMAGE, [NONE, SCALES], {"mode": "linear"}),
    ("Resize", IMAGE, [NONE, NONE, whole(2, 4, 5, 9)], {"mode": "cubic"}),
    (
        "Resize",
        IMAGE,
        [NONE, NONE, whole(2, 4, 14, 12)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    ("Pad", IMAGE, [whole(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", IMAGE, [whole(0, 0, 1, 2, 0, 0, 2, 1), np.array(3, np.float32)], {}),
    ("Slice", IMAGE, [whole(-1, 1), whole(-9, 99), whole(2, 3), whole(-2, 2)], {}),
    ("Gather", ROWS, [np.array(-1)], {"axis": 1}),
    ("Gather", (5,), [np.array(2)], {}),
    ("Expand", ROWS, [whole(2, 1, 5)], {}),
    ("DepthToSpace", IMAGE, [], {"blocksize": 2, "mode": "CRD"}),
    ("ReduceL2", IMAGE, [], {"axes": [2, 3], "keepdims": 0}),
    ("CumSum", ROWS, [whole(1)], {"reverse": 1, "exclusive": 1}),
    ("Einsum", ROWS, [drawn(5, 2)], {"equation": "ab,bc->ca"}),
    ("Trilu", ROWS, [], {"upper": 0}),
    (
        "LSTM",
        STEPS,
        [drawn(2, 16, 3), drawn(2, 16, 4), drawn(2, 32)],
        {"hidden_size": 4, "direction": "bidirectional"},
    ),
    (
        "GRU",
        STEPS,
        [drawn(1, 12, 3), drawn(1, 12, 4), drawn(1, 24)],
        {"hidden_size": 4, "linear_before_reset": 1},
    ),
    (
        "GRU",
        STEPS,
        [drawn(1, 12, 3), drawn(1, 12, 4), drawn(1, 24)],
        {"hidden_size": 4, "direction": "reverse"},
    ),
    ("RNN", STEPS, [drawn(1, 4, 3), drawn(1, 4, 4)], {"hidden_size": 4}),
]


def graph_of(case: Case) -> onnx.ModelProto:
    operator, shape, constants, attributes = case
    names = [f"c{at}" if c is not None else "" for at, c in enumerate(constants)]
    node = helper.make_node(operator, ["x", *names], ["y"], name="it", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.asarray(one), name)
            for one, name in zip(constants, names, strict=True)
            if one is not None
        ],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_an_operator_gives_what_the_runtime_gives(case: Case) -> None:
    error = check_exactness(graph_of(case), ["y"], [{"x": drawn(*case[1])}])

    assert error < 1e-5


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (("NonMaxSuppression", ROWS, [], {}), "NonMaxSuppression at node 'it'"),
        (
            (
                "LSTM",
                STEPS,
                [drawn(1, 16, 3), drawn(1, 16, 4)],
                {"hidden_size": 4, "clip": 1.0},
            ),
            "clips",
        ),
        (("If", ROWS, [], {}), "If at node 'it'"),
    ],
)
def test_what_is_not_known_is_refused_by_operator_and_node(
    case: Case, told: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        check_exactness(graph_of(case), ["y"], [{"x": drawn(*case[1])}])

    assert told in refused.value.detail
