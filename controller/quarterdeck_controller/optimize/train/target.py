"""What the student is to imitate: tensors of the float graph and of the quantized one.

A class is best imitated by its logits: their distribution tells what the winner alone
does not. They are found behind the output, past whatever only chooses or reshapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import onnx
from onnx import TensorProto, helper

Meaning = Literal["classes", "chances", "values"]
"""``classes``: logits of which one wins along an axis. ``chances``: logits of their own
each. ``values``: anything else."""

THROUGH = (
    "Cast",
    "DequantizeLinear",
    "Dropout",
    "Flatten",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Operators that say the same in another form."""
CHOOSERS = ("ArgMax", "LogSoftmax", "Softmax", "TopK")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to imitate.

    Attributes:
        teacher: Its name in the float graph.
        student: Its name in the quantized graph.
        axis: Of the classes.
        weight: In the loss.
    """

    teacher: str
    student: str
    meaning: Meaning
    axis: int = -1
    weight: float = 1.0


OTHERS = 0.1
"""Weight of all outputs together that are not judged."""


def find_targets(
    reference: onnx.GraphProto, student: onnx.GraphProto, output: str
) -> tuple[Target, ...]:
    """Return what to imitate, the judged output's first.

    Args:
        reference: The float graph.
        student: The quantized graph, with the same outputs in any order.
        output: The output that is judged.
    """
    judged = _target(reference, student, output)
    others = [
        _target(reference, student, value.name)
        for value in reference.output
        if value.name != output and value.type.tensor_type.elem_type in FLOATS
    ]
    share = OTHERS / max(1, len(others))
    return (judged, *(replace(other, weight=share) for other in others))


def _target(
    reference: onnx.GraphProto, student: onnx.GraphProto, output: str
) -> Target:
    name, meaning, axis = _logits(reference, output)
    other, _, _ = _logits(student, output)
    return Target(name, other, meaning, axis)


def _logits(graph: onnx.GraphProto, output: str) -> tuple[str, Meaning, int]:
    for node in _backwards(graph, output):
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type in CHOOSERS:
            first = 0 if node.op_type == "ArgMax" else -1
            return node.input[0], "classes", given.get("axis", first)
        if node.op_type == "Sigmoid":
            return node.input[0], "chances", -1
    return output, "values", -1


def _backwards(graph: onnx.GraphProto, output: str) -> Iterator[onnx.NodeProto]:
    producers = {name: node for node in graph.node for name in node.output}
    node = producers.get(output)
    while node is not None:
        yield node
        if node.op_type not in THROUGH:
            return
        node = producers.get(node.input[0])
