"""The quantized graph with everything in it that learns.

Weights are trained in units of their own first quantization step, so that one learning
rate means the same in every layer of every model: how many steps a weight may move.
Scales are trained by their logarithm.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from quarterdeck_controller.optimize.train.operators.quantized import fake_quantize
from quarterdeck_controller.optimize.train.parts import Bias, Parts, Weight
from quarterdeck_controller.optimize.train.program import Program, compile_program
from quarterdeck_controller.optimize.train.rounding import rounding

Array = NDArray[Any]

TINY = 1e-12
UNIT = 32
"""A weight of usual size is so many quantization steps large; what has no step of its
own, such as a bias, moves by this share of its size."""
MARGIN = 2e-6
"""A logarithm and back, in 32 bits, must not pass a scale's ceiling."""
ROUNDED = 0.51
"""Rounding moves a weight by half a step; what moved further was changed on purpose."""
MOSTLY = 0.98
"""All weights but those that the ends of the range cut off."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A float tensor that learns: ``value * unit``."""

    value: Tensor
    unit: Tensor

    def current(self) -> Tensor:
        """Return it in the graph's own units."""
        return self.value * self.unit


@dataclass(frozen=True, slots=True)
class Student:
    """Runs in PyTorch what the graph does in the runtime, and learns.

    Attributes:
        learned: Weights, biases and plain constants, by the constant's name.
        scales: Logarithms of scales, by the constant's name.
    """

    model: onnx.ModelProto
    parts: Parts
    program: Program
    learned: Mapping[str, Learned]
    scales: Mapping[str, Tensor]

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the program's wanted tensors, differentiable."""
        return self.program.run({**feeds, **self.values()})

    def values(self) -> dict[str, Tensor]:
        """Return what takes the place of constants and of the nodes behind them."""
        scales = {name: log.exp() for name, log in self.scales.items()}
        values = dict(scales)
        for part in self.parts.weights:
            rounded = fake_quantize(
                self.learned[part.integers].current(),
                scales[part.scale],
                torch.from_numpy(part.zero),
                axis=part.axis or 0,
                low=part.low,
                high=part.high,
            )
            values |= dict.fromkeys(part.values, rounded)
        for bias in self.parts.biases:
            current = self.learned[bias.integers].current()
            values |= dict.fromkeys(bias.values, current)
        for name in self.parts.plain:
            values[name] = self.learned[name].current()
        return values

    def weights(self) -> list[Tensor]:
        """Return what learns in steps of quantization."""
        return [one.value for one in self.learned.values()]

    def logarithms(self) -> list[Tensor]:
        """Return what learns by its logarithm."""
        return list(self.scales.values())

    def limit(self) -> None:
        """Take back what a scale may not become."""
        for part in self.parts.activations:
            if part.ceiling < inf:
                self.scales[part.scale].data.clamp_(max=log(part.ceiling) - MARGIN)

    def snapshot(self) -> list[Tensor]:
        """Return a copy of everything that learns."""
        return [one.detach().clone() for one in (*self.weights(), *self.logarithms())]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Go back to a snapshot."""
        learning = (*self.weights(), *self.logarithms())
        for tensor, saved in zip(learning, snapshot, strict=True):
            tensor.data.copy_(saved)


def make_student(
    model: onnx.ModelProto,
    parts: Parts,
    reference: onnx.GraphProto,
    wanted: Sequence[str],
) -> Student:
    """Return the graph, ready to learn.

    Args:
        model: A graph in the QDQ format.
        parts: What of it is trained.
        reference: The float graph: weights start from its values where it has them,
            which the integers do not tell exactly.
        wanted: The tensors that are compared with the teacher's.

    Raises:
        RejectedError: ``MODEL_INVALID`` naming a node of an operator not known.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    exact = Origins(model.graph, reference)
    learned: dict[str, Learned] = {}
    for part in parts.weights:
        whole = _floats(constants[part.integers])
        step = part.spread(_floats(constants[part.scale]), whole.ndim)
        near = (whole - part.spread(part.zero, whole.ndim)) * step
        start = exact.find(part, near, step)
        learned[part.integers] = _learned(start, step)
    for bias in parts.biases:
        scale = _floats(constants[bias.scale])
        near = _floats(constants[bias.integers]) * scale
        learned[bias.integers] = _learned(exact.find(bias, near, scale))
    for name in parts.plain:
        learned[name] = _learned(_floats(constants[name]))
    scales = {name: _logarithm(_floats(constants[name])) for name in parts.scales}
    given = [value.name for value in model.graph.input]
    given += [*parts.plain, *parts.scales]
    given += [name for part in parts.weights for name in part.values]
    given += [name for part in parts.biases for name in part.values]
    program = compile_program(model, wanted, given, special=rounding(model, parts))
    return Student(model, parts, program, learned, scales)


class Origins:
    """The float graph's constants, to be found by what became of them."""

    def __init__(self, graph: onnx.GraphProto, reference: onnx.GraphProto) -> None:
        self._users = [
            (name, node.name, at)
            for node in graph.node
            for at, name in enumerate(node.input)
        ]
        self._constants = {tensor.name: tensor for tensor in reference.initializer}
        self._nodes = {node.name: node for node in reference.node}

    def find(self, part: Weight | Bias, near: Array, step: Array) -> Array:
        """Return the constant that ``near`` was rounded from, else ``near``.

        Args:
            part: Whose integers say ``near``.
            near: The floats that the integers stand for.
            step: Between two integers; broadcasts to ``near``.
        """
        for name in (*part.values, *self._read_before(part)):
            found = self._constants.get(name)
            if found is None or tuple(found.dims) != near.shape:
                continue
            floats = _floats(found)
            if np.mean(np.abs(floats - near) <= ROUNDED * step) >= MOSTLY:
                return floats
        return near

    def _read_before(self, part: Weight | Bias) -> Iterator[str]:
        """Yield what the operators read where they now read the part."""
        for name, user, at in self._users:
            node = self._nodes.get(user)
            if name in part.values and node is not None and at < len(node.input):
                yield node.input[at]


def _learned(start: Array, step: Array | None = None) -> Learned:
    if step is None:
        size = float(np.sqrt(np.mean(np.square(start)))) or 1.0
        step = np.maximum(np.abs(start), size / 4) / UNIT
    value = torch.from_numpy(np.array(start, np.float32))
    units = np.broadcast_to(np.maximum(step, TINY), start.shape)
    unit = torch.from_numpy(np.array(units, np.float32))
    return Learned((value / unit).requires_grad_(), unit)


def _logarithm(scale: Array) -> Tensor:
    return torch.from_numpy(
        np.log(np.maximum(scale.reshape(-1), TINY))
    ).requires_grad_()


def _floats(tensor: onnx.TensorProto) -> Array:
    return np.array(numpy_helper.to_array(tensor)).astype(np.float32)
