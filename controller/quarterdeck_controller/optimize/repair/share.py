"""Which share of a model's work each operator does, the same every time. Pure counting.

Times would tell better but differ from run to run, and with them the operators that are
spared. So multiplications are counted, from the shapes that one sample gives, and every
output is counted as if it were multiplied a few times more: it is written and read.
"""

from collections.abc import Iterable

import numpy as np
import onnx

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.repair.observe import tensors

OUTPUT_COSTS = 16
"""Multiplications that writing one output is worth: a depthwise convolution of nine
products an output takes far longer than its products."""


def work_shares(
    model: onnx.ModelProto, names: Iterable[str], stored: Stored
) -> dict[str, float]:
    """Return the share of the work of all of ``names`` that each operator does.

    Operators inside subgraphs are left out: what they give cannot be seen.
    """
    wanted = set(names)
    nodes = {node.name: node for node in model.graph.node if node.name in wanted}
    outputs = [node.output[0] for node in nodes.values()]
    seen = next(tensors(model, outputs, stored, batch=1, rows=(0,)), {})
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    work = {
        name: _work(node, seen[node.output[0]].shape, dims)
        for name, node in nodes.items()
        if node.output[0] in seen
    }
    total = sum(work.values())
    return {name: done / total for name, done in work.items()} if total else {}


def _work(
    node: onnx.NodeProto, shape: tuple[int, ...], dims: dict[str, tuple[int, ...]]
) -> int:
    size = int(np.prod(shape, dtype=np.int64))
    weights = next((dims[name] for name in node.input if name in dims), ())
    return size * (_products(node, weights) + OUTPUT_COSTS)


def _products(node: onnx.NodeProto, weights: tuple[int, ...]) -> int:
    """Return how many products make one output."""
    if not weights:
        return OUTPUT_COSTS
    whole = int(np.prod(weights, dtype=np.int64))
    if node.op_type == "Conv":
        return whole // weights[0]
    if node.op_type == "Gemm" and any(
        a.name == "transB" and a.i for a in node.attribute
    ):
        return weights[-1]
    return weights[-2] if node.op_type in ("MatMul", "Gemm") else weights[0]
