"""Whether PyTorch computes what the runtime does: asked before anything is trained.

Rounding would hide small mistakes, so the graph is compared without it. If the two
differ, the first node where they part is named.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from quarterdeck_controller.optimize.data.stored import Feed
from quarterdeck_controller.optimize.session import infer, open_with, options_of
from quarterdeck_controller.optimize.train.program import (
    Program,
    compile_program,
    refusal,
)
from quarterdeck_controller.optimize.train.rounding import passing
from quarterdeck_controller.optimize.train.teacher import giving
from quarterdeck_shared.session import Session

Array = NDArray[Any]

TOLERANCE = 1e-3
"""Relative error of the same floats computed in another order, many layers deep."""
RUN_TIME_TOLERANCE = 3e-2
"""The same, where activations are rounded at run time: some fall on the other side."""


def check_exactness(
    model: onnx.ModelProto, wanted: Sequence[str], feeds: Sequence[Feed]
) -> float:
    """Return the greatest relative error of the wanted tensors.

    Raises:
        RejectedError: ``MODEL_INVALID`` naming the node where the two part.
    """
    inputs = [value.name for value in model.graph.input]
    program = compile_program(model, wanted, inputs, special=passing(model))
    plain = without_rounding(model)
    worst = max(float(_errors(program, plain, feed).max()) for feed in feeds)
    if worst > _tolerance(model):
        raise _parting(model, plain, program, feeds[0], worst)
    return worst


def without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with nothing but its weights quantized."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    constants = {tensor.name for tensor in plain.graph.initializer}
    del plain.graph.value_info[:]
    for node in plain.graph.node:
        rounds = node.op_type == "QuantizeLinear"
        inverse = node.op_type == "DequantizeLinear" and node.input[0] not in constants
        if rounds or inverse:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:]
            del node.attribute[:]
    return plain


def to_tensors(feed: Feed) -> dict[str, torch.Tensor]:
    """Return a feed as PyTorch takes it."""
    return {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}


def relative_error(found: Array, wanted: Array) -> float:
    """Return the distance of two arrays as a share of the second's size."""
    same = np.isfinite(wanted) & (np.abs(wanted) < np.float32(MASK))
    if found.shape != wanted.shape or not np.isfinite(found[same]).all():
        return float("inf")
    off = float(np.linalg.norm((found[same] - wanted[same]).astype(np.float64)))
    size = float(np.linalg.norm(wanted[same].astype(np.float64)))
    return off / max(size, TINY) if off > TINY else 0.0


MASK = 1e30
"""What is larger stands for minus infinity in a mask."""
TINY = 1e-9


def _errors(program: Program, plain: onnx.ModelProto, feed: Feed) -> Array:
    options = options_of(Session())
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = open_with(giving(plain, program.wanted).SerializeToString(), options)
    wanted = infer(session, program.wanted, feed)
    with torch.no_grad():
        found = program.run(to_tensors(feed))
    pairs = zip(found, wanted, strict=True)
    return np.array([relative_error(one.numpy(), other) for one, other in pairs])


def _tolerance(model: onnx.ModelProto) -> float:
    at_run_time = any(
        "Dynamic" in n.op_type or "NBits" in n.op_type for n in model.graph.node
    )
    return RUN_TIME_TOLERANCE if at_run_time else TOLERANCE


def _parting(
    model: onnx.ModelProto,
    plain: onnx.ModelProto,
    program: Program,
    feed: Feed,
    worst: float,
) -> Exception:
    """Return the refusal that names the first node whose output differs."""
    owners = {name: step for step in program.steps for name in step.outputs if name}
    inputs = [value.name for value in model.graph.input]
    every = compile_program(model, list(owners), inputs, special=passing(model))
    errors = _errors(every, plain, feed)
    for name, error in zip(owners, errors, strict=True):
        if error > _tolerance(model):
            step = owners[name]
            why = f"PyTorch is off by {error:.1e} of what the runtime computes there"
            return refusal(step.operator, step.name, why)
    last = program.steps[-1]
    return refusal(
        last.operator, last.name, f"the two differ by {worst:.1e} in the end"
    )
