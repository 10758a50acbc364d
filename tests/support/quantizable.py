"""Small float graphs with everything that quantization has to cope with."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from quarterdeck_controller.optimize.data.stored import Stored, Writer
from quarterdeck_controller.optimize.quantize.calibrate import observe
from quarterdeck_controller.optimize.quantize.spread import Spread

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


def graph(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Array],
    *,
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a prepared graph: named operators, constants as initializers."""
    for number, node in enumerate(nodes):
        node.name = node.name or f"{number}_{node.op_type}"
    made = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(k, FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, FLOAT, v) for k, v in outputs.items()],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10)
    return infer_shapes(model)


def normal(seed: int, *shape: int, scale: float = 1.0) -> Array:
    """Return random numbers."""
    found = np.random.default_rng(seed).standard_normal(shape) * scale
    return found.astype(np.float32)


def convolutions(opset: int = 17, *, batch: int | str = "n") -> onnx.ModelProto:
    """Return Conv, depthwise Conv, pooling and Gemm, with Relu and Clip between."""
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"]),
        make("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=16),
        make("Clip", ["c2", "zero", "six"], ["r2"]),
        make("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Conv", ["p", "w3", "b3"], ["c3"], dilations=[2, 2], pads=[2, 2, 2, 2]),
        make("Add", ["c3", "p"], ["a"]),
        make("Relu", ["a"], ["r3"]),
        make("Conv", ["r3", "w4", "b4"], ["c4"]),
        make("GlobalAveragePool", ["c4"], ["g"]),
        make("Flatten", ["g"], ["f"]),
        make("Gemm", ["f", "w5", "b5"], ["y"], transB=1, alpha=0.5, beta=2.0),
    ]
    constants = {
        "w1": normal(1, 16, 3, 3, 3, scale=0.2),
        "b1": normal(2, 16, scale=0.1),
        "w2": normal(3, 16, 1, 3, 3, scale=0.3),
        "zero": np.float32(0),
        "six": np.float32(6),
        "w3": normal(4, 16, 16, 3, 3, scale=0.1),
        "b3": normal(5, 16, scale=0.1),
        "w4": normal(6, 64, 16, 1, 1, scale=0.3),
        "b4": normal(7, 64, scale=0.1),
        "w5": normal(8, 10, 64, scale=0.2),
        "b5": normal(9, 10),
    }
    held = {k: np.asarray(v, np.float32) for k, v in constants.items()}
    return graph(
        nodes,
        held,
        inputs={"x": [batch, 3, 16, 16]},
        outputs={"y": [batch, 10]},
        opset=opset,
    )


def attention() -> onnx.ModelProto:
    """Return a masked attention over 3-D tensors, its mask -3.4e38."""
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "wq"], ["q0"]),
        make("Add", ["q0", "bq"], ["q"]),
        make("MatMul", ["x", "wk"], ["k"]),
        make("MatMul", ["x", "wv"], ["v"]),
        make("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        make("MatMul", ["q", "kt"], ["s"]),
        make("Mul", ["s", "factor"], ["t"]),
        make("Add", ["t", "mask"], ["m"]),
        make("Softmax", ["m"], ["p"], axis=-1),
        make("MatMul", ["p", "v"], ["o"]),
        make("MatMul", ["o", "wo"], ["y"]),
    ]
    mask = np.zeros((1, 8, 8), np.float32)
    mask[:, :, 5:] = -3.4e38
    constants = {name: normal(n, 64, 64, scale=0.1) for n, name in enumerate(_FOUR)}
    constants |= {
        "bq": normal(9, 64),
        "factor": np.array([0.1], np.float32),
        "mask": mask,
    }
    return graph(
        nodes, constants, inputs={"x": ["n", 8, 64]}, outputs={"y": ["n", 8, 64]}
    )


_FOUR = ("wq", "wk", "wv", "wo")


def gemm(**attributes: float) -> onnx.ModelProto:
    """Return one Gemm of 32 to 24 with these attributes."""
    shape = (24, 32) if attributes.get("transB") else (32, 24)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    for name, value in attributes.items():
        node.attribute.append(helper.make_attribute(name, value))
    rows: Shape = [32, "n"] if attributes.get("transA") else ["n", 32]
    return graph(
        [node],
        {"w": normal(1, *shape), "b": normal(2, 24)},
        inputs={"x": rows},
        outputs={"y": ["n", 24]},
    )


def recurrent(*, inside: bool = False) -> onnx.ModelProto:
    """Return an LSTM, in a branch of an If if ``inside``."""
    node = helper.make_node(
        "LSTM", ["x", "w", "r"], ["all", "last"], hidden_size=32, name="lstm"
    )
    last = helper.make_node("Squeeze", ["last", "zero"], ["y"], name="squeeze")
    held = {
        "w": normal(1, 1, 128, 16, scale=0.2),
        "r": normal(2, 1, 128, 32, scale=0.2),
        "zero": np.array([0], np.int64),
    }
    inputs: dict[str, Shape] = {"x": [5, 2, 16]}
    if not inside:
        return graph([node, last], held, inputs=inputs, outputs={"y": [2, 32]})
    output = helper.make_tensor_value_info("y", FLOAT, [2, 32])
    tensors = [numpy_helper.from_array(v, k) for k, v in held.items()]
    other = helper.make_node("ReduceMax", ["x"], ["z0"], keepdims=0, name="max")
    spread = helper.make_node("Expand", ["z0", "shape"], ["z"], name="expand")
    wide = helper.make_tensor_value_info("z", FLOAT, [2, 32])
    size = numpy_helper.from_array(np.array([2, 32], np.int64), "shape")
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "limit"], ["small"]),
        helper.make_node(
            "If",
            ["small"],
            ["out"],
            then_branch=helper.make_graph([node, last], "then", [], [output], tensors),
            else_branch=helper.make_graph([other, spread], "else", [], [wide], [size]),
        ),
    ]
    limit = {"limit": np.array(1e6, np.float32)}
    return graph(nodes, limit, inputs=inputs, outputs={"out": [2, 32]})


def store(folder: Path, samples: Mapping[str, Array]) -> Stored:
    """Return samples stored in ``folder``."""
    with Writer(folder) as writer:
        writer.add(samples)
    return Stored.open(folder)


def spreads_of(
    model: onnx.ModelProto, samples: Mapping[str, Array], batch: int = 16
) -> dict[str, Spread]:
    """Return the spreads that ``samples`` make in ``model``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scratch").mkdir()
        onnx.save(model, folder / "m.onnx")
        stored = store(folder / "samples", samples)
        return observe(folder / "m.onnx", stored, batch, folder / "scratch")


def run(model: onnx.ModelProto, feed: Mapping[str, Array]) -> Array:
    """Return the first output."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = model.SerializeToString()
    session = ort.InferenceSession(data, options, ["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(feed))[0])


def sqnr(
    model: onnx.ModelProto, other: onnx.ModelProto, feed: dict[str, Array]
) -> float:
    """Return how well ``other`` says what ``model`` says, decibels."""
    expected = run(model, feed).astype(np.float64)
    noise = expected - run(other, feed)
    return float(10 * np.log10((expected**2).sum() / max((noise**2).sum(), 1e-30)))


def kernels(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Return the kernels that the runtime makes of ``model``."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    optimized = onnx.load(folder / "optimized.onnx")
    return Counter(node.op_type for node in optimized.graph.node)
