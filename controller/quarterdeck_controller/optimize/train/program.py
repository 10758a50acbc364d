"""An ONNX graph as a list of steps that PyTorch can carry out and differentiate.

Only what the wanted tensors need is carried out; what depends on constants alone is
computed once. Values that the caller gives take the place of the nodes that would
compute them: so weights are trained behind their DequantizeLinear.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from quarterdeck_controller.optimize.train.operators.call import (
    Call,
    Operator,
    UnsupportedError,
)
from quarterdeck_controller.optimize.train.operators.table import (
    CONTROL,
    DOMAINS,
    OPERATORS,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Values = dict[str, Tensor]

WIDER: Mapping[int, type[np.generic]] = MappingProxyType(
    {
        TensorProto.INT4: np.int8,
        TensorProto.UINT4: np.uint8,
        TensorProto.UINT16: np.int32,
        TensorProto.UINT32: np.int64,
        TensorProto.UINT64: np.int64,
        TensorProto.BFLOAT16: np.float32,
    }
)
"""Types that PyTorch lacks, or that numpy does, and what holds their values."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node. ``done`` are the values that nothing needs after it."""

    name: str
    operator: str
    compute: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    given: Mapping[str, Any]
    done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """The steps to the wanted tensors, and the constants that they start from."""

    steps: tuple[Step, ...]
    constants: Mapping[str, Tensor]
    wanted: tuple[str, ...]
    opset: int

    def run(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the wanted tensors.

        Args:
            values: Inputs of the graph, and what takes the place of nodes.

        Raises:
            RejectedError: ``MODEL_INVALID`` naming the node that cannot be carried out.
        """
        known = {**self.constants, **values}
        for step in self.steps:
            known.update(
                zip(step.outputs, carry_out(step, known, self.opset), strict=False)
            )
            for name in step.done:
                known.pop(name, None)
        return [known[name] for name in self.wanted]

    def elements(self, values: Mapping[str, Tensor]) -> int:
        """Return how many numbers the steps give, which learning has to keep."""
        known, count = {**self.constants, **values}, 0
        for step in self.steps:
            outputs = carry_out(step, known, self.opset)
            count += sum(tensor.numel() for tensor in outputs)
            known.update(zip(step.outputs, outputs, strict=False))
        return count


def carry_out(
    step: Step, known: Mapping[str, Tensor], opset: int
) -> tuple[Tensor, ...]:
    """Return the step's outputs.

    Raises:
        RejectedError: ``MODEL_INVALID`` naming the node and what is the matter.
    """
    inputs = tuple(known[name] if name else None for name in step.inputs)
    try:
        found = step.compute(Call(inputs, step.given, len(step.outputs), opset))
    except UnsupportedError as error:
        raise refusal(step.operator, step.name, str(error)) from error
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise refusal(step.operator, step.name, why) from error
    return found if isinstance(found, tuple) else (found,)


def refusal(operator: str, node: str, why: str) -> RejectedError:
    """Return the refusal of an operator at a node."""
    return RejectedError(
        Code.MODEL_INVALID,
        f"training needs {operator} at node {node!r}: {why}; optimize without --qat",
    )


def compile_program(
    model: onnx.ModelProto,
    wanted: Sequence[str],
    given: Iterable[str],
    *,
    special: Mapping[str, Callable[[onnx.NodeProto], Operator]] | None = None,
) -> Program:
    """Return what computes the ``wanted`` tensors.

    Args:
        model: A graph without control flow on the way to them.
        wanted: Names of tensors.
        given: Names of the values that ``run`` will be given, graph inputs included.
        special: Operators that get a function made for each node.

    Raises:
        RejectedError: ``MODEL_INVALID`` naming a node of an operator not known.
    """
    nodes = needed_nodes(model.graph, wanted, given)
    constants = initial_values(model.graph)
    varying, steps = set(given), []
    opset = max(
        (found.version for found in model.opset_import if found.domain in DOMAINS),
        default=17,
    )
    for name in varying:
        constants.pop(name, None)
    for node in nodes:
        step = _step(node, special or {})
        if varying.isdisjoint(step.inputs):
            outputs = carry_out(step, constants, opset)
            constants.update(zip(step.outputs, outputs, strict=False))
            continue
        varying.update(step.outputs)
        steps.append(step)
    return Program(_forgetting(steps, wanted), constants, tuple(wanted), opset)


def needed_nodes(
    graph: onnx.GraphProto, wanted: Iterable[str], given: Iterable[str]
) -> list[onnx.NodeProto]:
    """Return the nodes that compute ``wanted`` from ``given``, in order."""
    needed, known, nodes = set(wanted), frozenset(given), []
    for node in reversed(graph.node):
        if any(name in needed and name not in known for name in node.output if name):
            nodes.append(node)
            needed.update(name for name in node.input if name)
    return nodes[::-1]


def initial_values(graph: onnx.GraphProto) -> Values:
    """Return the graph's constants, those of strings left out."""
    return {
        tensor.name: to_tensor(tensor)
        for tensor in graph.initializer
        if tensor.data_type != TensorProto.STRING
    }


def to_tensor(tensor: TensorProto) -> Tensor:
    """Return an ONNX tensor as PyTorch's, in a wider type where PyTorch lacks it."""
    array = numpy_helper.to_array(tensor)
    wider = WIDER.get(tensor.data_type)
    return torch.from_numpy(np.array(array if wider is None else array.astype(wider)))


def _step(
    node: onnx.NodeProto,
    special: Mapping[str, Callable[[onnx.NodeProto], Operator]],
) -> Step:
    make = special.get(node.op_type)
    compute = make(node) if make else OPERATORS.get(node.op_type)
    if node.op_type == "Constant":
        compute = _constant
    if node.op_type in CONTROL:
        raise refusal(node.op_type, node.name, "what its branches do is not known here")
    if compute is None or node.domain not in DOMAINS:
        raise refusal(node.op_type, node.name, "it is not known here")
    return Step(
        name=node.name,
        operator=node.op_type,
        compute=compute,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        given={found.name: _attribute(found) for found in node.attribute},
    )


def _attribute(attribute: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return to_tensor(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [one.decode("utf-8", "replace") for one in value]
    return value


def _constant(call: Call) -> Tensor:
    (value,) = call.given.values()
    return value if isinstance(value, Tensor) else torch.tensor(value)


def _forgetting(steps: Sequence[Step], wanted: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps, each told which values to forget after it."""
    kept, made = set(wanted), {name for step in steps for name in step.outputs}
    forgetting = []
    for step in reversed(steps):
        used = dict.fromkeys((*step.inputs, *step.outputs))
        done = tuple(name for name in used if name in made and name not in kept)
        kept.update(done)
        forgetting.append(
            Step(
                step.name,
                step.operator,
                step.compute,
                step.inputs,
                step.outputs,
                step.given,
                done,
            )
        )
    return tuple(forgetting[::-1])
