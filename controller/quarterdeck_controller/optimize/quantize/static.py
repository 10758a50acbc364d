"""Write what is static as QuantizeLinear and DequantizeLinear around float operators.

The runtime fuses an operator between them into its integer kernel. Every tensor has one
grid. What is made in integers keeps its name after the DequantizeLinear, so that all
that read it, inside subgraphs too, read what was quantized.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from quarterdeck_controller.optimize.quantize.flow import Flow, activation_type
from quarterdeck_controller.optimize.quantize.graph import (
    Array,
    Index,
    copy_node,
    integer,
    make_node,
    named_input,
    real,
)
from quarterdeck_controller.optimize.quantize.integers import (
    Grid,
    Weights,
    activation_grid,
    quantize_bias,
    quantize_weights,
    scales_for_bias,
    weight_scales,
)
from quarterdeck_controller.optimize.quantize.spread import Spreads, take_range
from quarterdeck_controller.optimize.quantize.treatment import Treated
from quarterdeck_controller.optimize.recipe import Recipe

WIDE_OPSET = 21
"""From here on the standard's own QuantizeLinear takes 16 bits."""
SEVEN_BITS = 64
"""Two products of 255 and 64 fit the 16 bits in which kernels without VNNI add them."""


def write_static(
    model: onnx.ModelProto,
    treated: Treated,
    flow: Flow,
    spreads: Spreads,
    recipe: Recipe,
) -> None:
    """Quantize in ``model``, in place, what ``treated`` says is static or wide."""
    if flow.readers:
        _Writer(model, treated, flow, spreads, recipe).write()


class _Product(NamedTuple):
    """The constants of an operator that multiplies by weights."""

    weights: Array
    axis: int | None
    bias: Array | None


@dataclass(slots=True)
class _Writer:
    model: onnx.ModelProto
    treated: Treated
    flow: Flow
    spreads: Spreads
    recipe: Recipe
    index: Index = field(init=False)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    grids: dict[tuple[str, str], Grid] = field(default_factory=dict)
    quantized: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index = Index.of(self.model.graph)

    def write(self) -> None:
        graph = self.model.graph
        for old in graph.node:
            node = copy_node(old)
            if node.name in self.flow.readers:
                self._quantize_inputs(node)
            self.nodes.append(node)
            for name in old.output:
                if name in self.flow.made:
                    self._quantize_output(node, name)
        del graph.node[:]
        graph.node.extend(self.nodes)
        for name, array in self.constants.items():
            graph.initializer.append(numpy_helper.from_array(array, name))
        self._import_domains()

    def _quantize_inputs(self, node: NodeProto) -> None:
        dtype = self._type_for(node)
        product = _product(node, self.index, per_channel=self.recipe.per_channel)
        before = node.input[0]
        for at, name in enumerate(node.input):
            if name in self.flow.readers[node.name] and not (product and at):
                node.input[at] = self._read(name, dtype)
        if product is not None:
            self._quantize_product(node, product, self._grid(before, dtype))

    def _quantize_product(self, node: NodeProto, product: _Product, grid: Grid) -> None:
        """Replace weights and bias; a factor of the operator goes into them."""
        levels = SEVEN_BITS if self.recipe.reduce_range else 127
        scales = weight_scales(product.weights, product.axis, levels=levels)
        if product.bias is not None:
            scales = scales_for_bias(scales, product.bias, grid.scale)
        signed = self.recipe.scheme[2] == "s"
        weights = quantize_weights(product.weights, scales, product.axis, signed=signed)
        node.input[1] = self._dequantize_weights(node, weights)
        if product.bias is not None:
            node.input[2] = self._dequantize_bias(node, product.bias, grid, scales)
        for factor in ("alpha", "beta"):
            _delete_attribute(node, factor)

    def _dequantize_weights(self, node: NodeProto, weights: Weights) -> str:
        prefix = f"{node.name}/weights"
        return self._dequantize(prefix, weights.integers, weights.scales, weights)

    def _dequantize_bias(
        self, node: NodeProto, bias: Array, grid: Grid, scales: Array
    ) -> str:
        levels, units = quantize_bias(bias, grid.scale, scales)
        axis = 0 if units.ndim else None
        weights = Weights(levels, units, 0, axis)
        return self._dequantize(f"{node.name}/bias", levels, units, weights)

    def _dequantize(
        self, prefix: str, integers: Array, scales: Array, weights: Weights
    ) -> str:
        names = [f"{prefix}_quantized", f"{prefix}_scale", f"{prefix}_zero"]
        self.constants |= dict(
            zip(names, (integers, scales, weights.zeros), strict=True)
        )
        self._add("DequantizeLinear", names, prefix, axis=weights.axis)
        return prefix

    def _read(self, name: str, dtype: str) -> str:
        """Return the name of ``name`` after quantization to ``dtype``."""
        if self.flow.made.get(name) in (dtype, "uint8", "int8"):
            return name
        if (name, dtype) not in self.quantized:
            after = f"{name}_{dtype}_dequantized"
            grid = self._grid(name, dtype)
            constant = self.index.constant(name)
            if constant is None:
                self._convert(name, after, grid)
            else:
                self._convert_constant(constant, after, grid)
            self.quantized[name, dtype] = after
        return self.quantized[name, dtype]

    def _quantize_output(self, node: NodeProto, name: str) -> None:
        before = f"{name}_float"
        for at, output in enumerate(node.output):
            if output == name:
                node.output[at] = before
        self._convert(before, name, self._grid(name, self.flow.made[name]))

    def _convert(self, before: str, after: str, grid: Grid) -> None:
        parameters = self._parameters(after, grid)
        integers = f"{after}_quantized"
        self._add("QuantizeLinear", [before, *parameters], integers, wide=grid.dtype)
        self._add("DequantizeLinear", [integers, *parameters], after, wide=grid.dtype)

    def _convert_constant(self, constant: Array, after: str, grid: Grid) -> None:
        integers = f"{after}_quantized"
        self.constants[integers] = grid.quantize(constant)
        parameters = self._parameters(after, grid)
        self._add("DequantizeLinear", [integers, *parameters], after, wide=grid.dtype)

    def _parameters(self, after: str, grid: Grid) -> tuple[str, str]:
        scale, zero = f"{after}_scale", f"{after}_zero"
        self.constants[scale] = np.array(grid.scale, np.float32)
        self.constants[zero] = np.array(grid.zero, grid.dtype)
        return scale, zero

    def _add(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        *,
        wide: str = "",
        axis: int | None = None,
    ) -> None:
        own = wide == "uint16" and _opset(self.model) < WIDE_OPSET
        name, domain = f"{output}_{operator}", "com.microsoft" if own else ""
        attributes = {} if axis is None else {"axis": axis}
        node = make_node(
            operator, inputs, [output], name=name, domain=domain, attributes=attributes
        )
        self.nodes.append(node)

    def _grid(self, name: str, dtype: str) -> Grid:
        root = self.flow.root(name)
        if (root, dtype) not in self.grids:
            self.grids[root, dtype] = self._new_grid(root, dtype)
        return self.grids[root, dtype]

    def _new_grid(self, name: str, dtype: str) -> Grid:
        symmetric = self.recipe.symmetric
        constant = self.index.constant(name)
        if constant is not None:
            low, high = float(constant.min(initial=0)), float(constant.max(initial=0))
        else:
            how = "minmax" if dtype == "uint16" else self.recipe.calibration
            low, high = take_range(self.spreads[name], how, symmetric=symmetric)
        return activation_grid(low, high, dtype, symmetric=symmetric)

    def _type_for(self, node: NodeProto) -> str:
        wide = self.treated[node] == "wide"
        return "uint16" if wide else activation_type(self.recipe)

    def _import_domains(self) -> None:
        used = any(node.domain == "com.microsoft" for node in self.nodes)
        if used and all(o.domain != "com.microsoft" for o in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _product(node: NodeProto, index: Index, *, per_channel: bool) -> _Product | None:
    """Return weights and bias, the operator's factors multiplied in, if it has any."""
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return None
    weights = index.constant(node.input[1])
    if weights is None:
        return None
    bias = index.constant(named_input(node, 2))
    axis = _channel_axis(node, weights)
    if node.op_type == "Gemm":
        weights = weights * np.float32(real(node, "alpha", 1.0))
        if bias is not None and axis is not None:
            factor = np.float32(real(node, "beta", 1.0))
            columns = (weights.shape[axis],)
            bias = np.broadcast_to(bias.reshape(-1) * factor, columns)
    return _Product(weights, axis if per_channel else None, bias)


def _channel_axis(node: NodeProto, weights: Array) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if integer(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if integer(node, "transB", 0) else 1
    is_matrix = weights.ndim == len(("row", "column"))
    return 1 if is_matrix else None


def _delete_attribute(node: NodeProto, name: str) -> None:
    kept = [found for found in node.attribute if found.name != name]
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)


def _opset(model: onnx.ModelProto) -> int:
    versions = {o.domain: o.version for o in model.opset_import}
    return int(versions.get("", versions.get("ai.onnx", 0)))
