"""Write matrix products with constant weights on other kernels, node by node.

``dynamic`` quantizes the activations at run time, by what they then are; the runtime
fuses the pieces into one kernel. ``weights4`` stores the matrix in blocks of four bits
for the runtime's kernel for that. Both work inside subgraphs too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.quantize.graph import (
    Array,
    Index,
    copy_node,
    indexed,
    integer,
    make_node,
    named_input,
    real,
)
from quarterdeck_controller.optimize.quantize.integers import (
    quantize_weights,
    weight_scales,
)
from quarterdeck_controller.optimize.quantize.treatment import Treated
from quarterdeck_controller.optimize.recipe import Recipe

BLOCK = 32
"""Weights that share a scale in four bits."""
SEVEN_BITS = 64
ACCURACY_LEVEL = 4
"""The kernel may multiply integers: it quantizes activations in blocks of its own."""
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Of the largest weight, what four bits may cover at most; the best by block."""


TO_FLOAT: Mapping[str, int] = MappingProxyType({"to": TensorProto.FLOAT})


class Matrix(NamedTuple):
    """The constants of ``A @ values + bias``."""

    values: Array
    bias: Array | None


def write_products(model: onnx.ModelProto, treated: Treated, recipe: Recipe) -> None:
    """Rewrite in ``model``, in place, what is dynamic or in four bits."""
    changed = False
    for graph, index in reversed(list(indexed(model.graph))):  # the inner ones first
        writer = _Writer(graph, index, treated, recipe)
        changed = writer.write() or changed
    if changed and all(o.domain != "com.microsoft" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


@dataclass(slots=True)
class _Writer:
    graph: GraphProto
    index: Index
    treated: Treated
    recipe: Recipe
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    measured: dict[str, list[str]] = field(default_factory=dict)

    def write(self) -> bool:
        """Return whether anything was rewritten."""
        writers = {"dynamic": self._write_dynamic, "weights4": self._write_blocks}
        for node in self.graph.node:
            writer = writers.get(self.treated[node])
            matrix = matrix_of(node, self.index) if writer else None
            if writer is None or matrix is None:
                self.nodes.append(copy_node(node))
            else:
                writer(node, matrix)
        if not self.constants:
            return False
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        for name, values in self.constants.items():
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        return True

    def _write_dynamic(self, node: NodeProto, matrix: Matrix) -> None:
        integers, input_scale, zero = self._measure(node.input[0])
        name, axis = node.name, 1 if self.recipe.per_channel else None
        levels = SEVEN_BITS if self.recipe.reduce_range else 127
        found = quantize_weights(
            matrix.values,
            weight_scales(matrix.values, axis, levels=levels),
            axis,
            signed=self.recipe.scheme[2] == "s",
        )
        weights = self._constant(f"{name}/weights_quantized", found.integers)
        scale = self._constant(f"{name}/weights_scale", found.scales)
        middle = self._constant(
            f"{name}/weights_zero", np.array(found.zero, found.integers.dtype)
        )
        self._add(
            "MatMulInteger",
            [integers, weights, zero, middle],
            f"{name}/sums",
            name=name,
        )
        self._add("Cast", [f"{name}/sums"], f"{name}/cast", attributes=TO_FLOAT)
        self._add("Mul", [input_scale, scale], f"{name}/scale")
        self._finish("Mul", [f"{name}/cast", f"{name}/scale"], node, matrix.bias)

    def _measure(self, name: str) -> list[str]:
        """Return the integers, scale and zero point of a tensor at run time."""
        if name not in self.measured:
            made = [f"{name}/{what}" for what in ("integers", "scale", "zero")]
            self.nodes.append(
                make_node("DynamicQuantizeLinear", [name], made, name=f"{name}/measure")
            )
            self.measured[name] = made
        return self.measured[name]

    def _write_blocks(self, node: NodeProto, matrix: Matrix) -> None:
        packed, scales = pack_blocks(matrix.values)
        inner, columns = matrix.values.shape
        inputs = [
            node.input[0],
            self._constant(f"{node.name}/blocks", packed),
            self._constant(f"{node.name}/scales", scales),
        ]
        attributes = {
            "K": inner,
            "N": columns,
            "bits": 4,
            "block_size": BLOCK,
            "accuracy_level": ACCURACY_LEVEL,
        }
        self._finish("MatMulNBits", inputs, node, matrix.bias, attributes)

    def _finish(
        self,
        operator: str,
        inputs: list[str],
        node: NodeProto,
        bias: Array | None,
        attributes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Add the last operator, and a bias if there is one, under the node's name."""
        if bias is None:
            self._add(operator, inputs, node.output[0], attributes=attributes)
            return
        self._add(operator, inputs, f"{node.name}/product", attributes=attributes)
        added = self._constant(f"{node.name}/bias", bias)
        self._add("Add", [f"{node.name}/product", added], node.output[0])

    def _add(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        *,
        name: str = "",
        attributes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        node = make_node(
            operator,
            inputs,
            [output],
            name=name or f"{output}_{operator}",
            domain="com.microsoft" if operator == "MatMulNBits" else "",
            attributes=attributes,
        )
        self.nodes.append(node)

    def _constant(self, name: str, values: Array) -> str:
        self.constants[name] = np.ascontiguousarray(values)
        return name


def matrix_of(node: NodeProto, index: Index) -> Matrix | None:
    """Return the matrix that ``node`` multiplies by, its factors multiplied in."""
    values = index.constant(node.input[1])
    if values is None or node.op_type == "MatMul":
        return None if values is None else Matrix(values, None)
    if integer(node, "transB", 0):
        values = values.T
    values = values * np.float32(real(node, "alpha", 1.0))
    bias = index.constant(named_input(node, 2))
    if bias is not None:
        bias = bias.reshape(-1) * np.float32(real(node, "beta", 1.0))
    return Matrix(values, bias)


def pack_blocks(values: Array) -> tuple[Array, Array]:
    """Return a matrix in blocks of four bits, as ``MatMulNBits`` takes it.

    Args:
        values: Of shape (inner, columns).

    Returns:
        Bytes of shape (columns, blocks, block / 2), the earlier value in the lower
        half, and the scales, column by column. The levels are -8 to 7, stored from 0.
    """
    inner, columns = values.shape
    count = -(-inner // BLOCK)
    padded = np.zeros((columns, count * BLOCK), np.float32)
    padded[:, :inner] = values.T
    blocks = padded.reshape(columns, count, BLOCK)
    scales = _block_scales(blocks)
    safe = np.where(scales == 0, np.float32(1), scales)
    levels = np.clip(np.rint(blocks / safe[..., None]), -8, 7).astype(np.int8) + 8
    bits = levels.astype(np.uint8)
    packed = bits[..., 0::2] | (bits[..., 1::2] << 4)
    return packed, scales.reshape(-1)


def _block_scales(blocks: Array) -> Array:
    """Return for each block the scale with the least squared error.

    The value that is largest in magnitude is given the level -8, the one that has no
    counterpart, or less of the range for the sake of the others.
    """
    at = np.abs(blocks).argmax(axis=-1)[..., None]
    full = np.take_along_axis(blocks, at, axis=-1)[..., 0] / -8
    best, least = full, np.full(full.shape, np.inf, np.float32)
    for share in SHARES:
        scales = (full * np.float32(share)).astype(np.float32)
        safe = np.where(scales == 0, np.float32(1), scales)[..., None]
        levels = np.clip(np.rint(blocks / safe), -8, 7)
        errors = ((blocks - levels * safe) ** 2).sum(axis=-1)
        best = np.where(errors < least, scales, best)
        least = np.minimum(errors, least)
    return best.astype(np.float32)
