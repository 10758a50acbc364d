"""Tell whether a model is quantized already. Pure."""

from collections import Counter
from collections.abc import Mapping
from math import prod

from onnx import ModelProto, TensorProto

from quarterdeck_controller.optimize.intake.graph import all_nodes, tensors

OPERATORS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        "MatMulNBits",
        "MatMulBnb4",
        "MatMulFpQ4",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulIntegerToFloat",
        "GatherBlockQuantized",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
    }
)
"""Operators that only a quantized model has; so has any that starts with a prefix."""
PREFIXES = ("QLinear", "QOrdered")
CASTS = "Cast of integer weights"
CAST_ELEMENTS = 1024
"""Integers that are made float are weights when there are so many."""

_NARROW = frozenset(
    {
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
    }
)


def signs_of_quantization(model: ModelProto) -> Mapping[str, int]:
    """Return how often each operator occurs that only quantized models have.

    Integer weights that a Cast makes float, which the runtime folds when it loads, are
    as much a sign as any operator.
    """
    narrow = {
        tensor.name
        for tensor in tensors(model)
        if tensor.data_type in _NARROW and prod(tensor.dims) >= CAST_ELEMENTS
    }
    found: Counter[str] = Counter()
    for node in all_nodes(model):
        if node.op_type in OPERATORS or node.op_type.startswith(PREFIXES):
            found[node.op_type] += 1
        elif node.op_type == "Cast" and narrow.intersection(node.input):
            found[CASTS] += 1
        elif node.op_type == "Constant" and node.output:
            narrow |= {
                node.output[0]
                for attribute in node.attribute
                if attribute.t.data_type in _NARROW
                and prod(attribute.t.dims) >= CAST_ELEMENTS
            }
    return dict(found.most_common())
