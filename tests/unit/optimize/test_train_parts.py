"""What of a quantized graph learns, and by which scales. Needs no PyTorch."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.steps import ExportRequest, TrainRequest
from quarterdeck_controller.optimize.train.export import export
from quarterdeck_controller.optimize.train.parts import find_parts
from quarterdeck_controller.optimize.train.sharing import own_scales
from quarterdeck_controller.optimize.train.target import find_targets
from quarterdeck_controller.optimize.train.train import train
from quarterdeck_shared.errors import RejectedError

WITHOUT = pytest.mark.skipif(
    find_spec("torch") is not None, reason="PyTorch is installed here"
)


def graph(*lines: str, output: str = "y") -> onnx.ModelProto:
    """Make nodes of lines such as ``Relu a b``; what nothing makes is the input x."""
    nodes = []
    for at, line in enumerate(lines):
        operator, *inputs, made = line.split()
        nodes.append(helper.make_node(operator, inputs, [made], name=f"n{at}"))
    constants = {
        "s": np.float32(6 / 255),
        "z": np.uint8(0),
        "nil": np.float32(0),
        "six": np.float32(6),
    }
    return helper.make_model(
        helper.make_graph(
            nodes,
            "parts",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", None])],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )


PAIR = ("QuantizeLinear a s z q", "DequantizeLinear q s z b")


def scales_of(model: onnx.ModelProto) -> list[str]:
    rounding = ("QuantizeLinear", "DequantizeLinear")
    return [node.input[1] for node in model.graph.node if node.op_type in rounding]


def test_scales_that_are_equal_by_chance_learn_apart() -> None:
    model = graph(
        "Relu x a",
        *PAIR,
        "Tanh b c",
        "QuantizeLinear c s z r",
        "DequantizeLinear r s z y",
    )

    first, first_back, second, second_back = scales_of(own_scales(model))

    assert first == first_back
    assert second == second_back
    assert first != second


def test_both_sides_of_a_mover_keep_one_scale() -> None:
    model = graph(
        "Relu x a",
        *PAIR,
        "Transpose b c",
        "QuantizeLinear c s z r",
        "DequantizeLinear r s z y",
    )

    assert len(set(scales_of(own_scales(model)))) == 1


def test_a_scale_may_not_reach_past_the_clip_before_it() -> None:
    model = graph("Clip x nil six a", *PAIR, output="b")

    (activation,) = find_parts(own_scales(model)).activations

    assert activation.ceiling == pytest.approx(6 / 255)


@pytest.mark.parametrize(
    ("lines", "logits", "meaning"),
    [
        (("Relu x a", "Softmax a y"), "a", "classes"),
        (("Relu x a", "Softmax a b", "Identity b y"), "a", "classes"),
        (("Relu x a", "Sigmoid a y"), "a", "chances"),
        (("Relu x y",), "y", "values"),
    ],
)
def test_logits_are_found_behind_what_only_chooses(
    lines: tuple[str, ...], logits: str, meaning: str
) -> None:
    model = graph(*lines).graph

    (target,) = find_targets(model, model, "y")

    assert (target.teacher, target.meaning) == (logits, meaning)


@WITHOUT
def test_without_pytorch_training_says_how_to_install_it(tmp_path: Path) -> None:
    request = TrainRequest(
        model=tmp_path,
        reference=tmp_path,
        out=tmp_path,
        samples=tmp_path,
        output="y",
        batch=1,
    )

    with pytest.raises(RejectedError) as refused:
        train(request)

    assert 'pip install "quarterdeck-controller[qat]"' in refused.value.detail


@WITHOUT
def test_without_pytorch_a_module_cannot_be_the_model(tmp_path: Path) -> None:
    with pytest.raises(RejectedError) as refused:
        export(ExportRequest(source="net.py:make", out=tmp_path / "net.onnx"))

    assert "quarterdeck-controller[qat]" in refused.value.detail
