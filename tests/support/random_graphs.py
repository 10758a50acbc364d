"""Random float models that are valid and that nobody tuned anything for.

``random_case`` gives a model and samples for it from a seed, always the same ones; each
passes onnx's checker, loads in onnxruntime and gives finite outputs for its samples.
``cases`` is the same as a strategy for properties. What real exporters leave behind is
in them: weights in Constant nodes or as inputs, weights through a Transpose, shared
weights, unnamed nodes, names used again in branches, dead branches, masks of -3.4e38.
"""

from math import prod

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support.random_layers import (
    COUNT,
    IMAGE,
    ROW,
    SIGNAL,
    Layer,
    Net,
    Samples,
    Shape,
    Value,
    activation,
    arithmetic,
    attention,
    batch_norm,
    branch,
    concat,
    conv,
    conv_transpose,
    cut,
    flatten,
    floats,
    gelu,
    gemm,
    gemm_of_transposed,
    global_pool,
    instance_norm,
    layer_norm,
    matmul,
    matmul_left,
    mean,
    pad,
    pool,
    recurrent,
    reduce_mean,
    reshape,
    residual,
    resize,
    softmax,
    split,
    squeeze,
    swap,
    unsqueeze,
)

OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
ATTEMPTS = 30
MOST_VALUES = 20_000

ANY: tuple[Layer, ...] = (
    activation,
    activation,
    arithmetic,
    arithmetic,
    residual,
    concat,
    split,
    cut,
    pad,
    gelu,
    softmax,
    layer_norm,
)
SPATIAL: tuple[Layer, ...] = (
    *[conv] * 9,
    conv_transpose,
    batch_norm,
    instance_norm,
    pool,
    global_pool,
    resize,
    flatten,
    squeeze,
    reduce_mean,
    swap,
    reshape,
    matmul,
)
LAYERS: dict[int, tuple[Layer, ...]] = {
    IMAGE: (*ANY, *SPATIAL),
    SIGNAL: (*ANY, *SPATIAL, matmul_left, attention, recurrent, unsqueeze, branch),
    ROW: (*ANY, *[gemm] * 4, gemm_of_transposed, matmul, unsqueeze, batch_norm, branch),
}


def _start(net: Net) -> Value:
    draw = net.rng.random()
    if draw < 0.4:
        shape: Shape = (net.pick(1, 4), net.pick(6, 12), net.pick(6, 12))
    elif draw < 0.65:
        shape = (net.pick(2, 10), net.pick(4, 16))
    elif draw < 0.85:
        shape = (net.pick(2, 24),)
    else:
        words, width, steps = net.pick(5, 60), net.pick(2, 16), net.pick(2, 8)
        ids = net.add_input((steps,), integers=words)
        return Value(net.one("Gather", [net.weight(words, width), ids]), (steps, width))
    return Value(net.add_input(shape), shape)


def _head(net: Net, x: Value) -> Value:
    while len(x.shape) > ROW:
        if prod(x.shape) > 512:
            x = Value(mean(net, x.name, len(x.shape), keep=0), x.shape[:-1])
        else:
            x = flatten(net, x) or x
    return gemm(net, x) or x


def _grow(net: Net, x: Value, layers: int) -> Value:
    for _ in range(layers):
        choices = LAYERS[len(x.shape)]
        made = choices[net.pick(0, len(choices) - 1)](net, x)
        if made is not None and prod(made.shape) <= MOST_VALUES and 0 not in made.shape:
            x = made  # what is left behind is a dead branch
    return x


def _draw(rng: np.random.Generator) -> tuple[onnx.ModelProto, Samples]:
    opset = int(rng.choice(OPSETS))
    net = Net(rng, opset, batch=1 if rng.random() < 0.3 else "n")
    x = _grow(net, _start(net), net.pick(1, 9))
    if net.chance(0.2):
        joined = [_head(net, x).name, _head(net, _start(net)).name]
        outputs = [Value(net.one("Concat", joined, axis=1), (0,))]
    elif net.chance(0.7):
        outputs = [_head(net, x), *([x] if net.chance(0.2) else [])]
    else:
        outputs = [x]
    unique = {value.name: len(value.shape) + 1 for value in outputs}
    given = [floats(name, rank) for name, rank in unique.items()]
    if net.chance(0.1):
        best = net.one("ArgMax", [outputs[0].name], axis=1)
        dims = [None] * len(outputs[0].shape) + [None]
        given.append(helper.make_tensor_value_info(best, TensorProto.INT64, dims))
    graph = helper.make_graph(net.nodes, "random", net.inputs, given, net.initializers)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = helper.find_min_ir_version_for(opsets)
    return model, net.samples


def _runs(model: onnx.ModelProto, samples: Samples) -> bool:
    """Return whether every sample gives finite outputs that are not out of bounds."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    for row in range(COUNT):
        feed = {name: array[row : row + 1] for name, array in samples.items()}
        for value in session.run(None, feed):
            if np.abs(np.asarray(value)).max(initial=0) > 1e6:
                return False
            if not np.isfinite(np.asarray(value)).all():
                return False
    return True


def random_pair(rng: np.random.Generator) -> tuple[onnx.ModelProto, Samples]:
    """Return a random model and samples for it, samples first."""
    for _ in range(ATTEMPTS):
        model, samples = _draw(rng)
        onnx.checker.check_model(model)
        if _runs(model, samples):
            return model, samples
    raise AssertionError(f"none of {ATTEMPTS} random models gives finite outputs")


def random_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a random model."""
    return random_pair(rng)[0]


def random_case(seed: int) -> tuple[onnx.ModelProto, Samples]:
    """Return the random model with this number, and samples for it, samples first."""
    return random_pair(np.random.default_rng(seed))


def cases() -> st.SearchStrategy[tuple[onnx.ModelProto, Samples]]:
    """Return the strategy of random models with their samples."""
    return st.integers(0, 2**32 - 1).map(random_case)
