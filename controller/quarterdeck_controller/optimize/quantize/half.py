"""Turn a whole graph to 16-bit floats, as far as the runtime still loads it."""

import logging
from collections.abc import Collection

import onnx
from onnx import TensorProto
from onnxruntime.transformers.float16 import (
    DEFAULT_OP_BLOCK_LIST,
    convert_float_to_float16,
)

from quarterdeck_controller.optimize.quantize.graph import all_graphs, sort_nodes
from quarterdeck_controller.optimize.session import open_with, options_of
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session

DELICATE = ("ReduceMean", "ReduceSum", "Pow", "Softmax", "LayerNormalization")
"""Operators whose sums leave the range of 16-bit floats first."""
CONTROL = ("If", "Loop", "Scan")
CONVERTER_ERRORS = (RejectedError, ValueError, TypeError, LookupError, RuntimeError)
"""What the converter is seen to raise, and what the runtime says to its result."""


def to_half(
    model: onnx.ModelProto, kept: Collection[str] = ()
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return ``model`` in 16-bit floats, inputs and outputs as they were.

    Args:
        model: The graph; it is not changed.
        kept: Names of operators that stay in float.

    Returns:
        The model, and what had to stay in float as sentences.

    Raises:
        ValueError: The runtime loads no version of it.
    """
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    inside = sorted(
        {n.op_type for g in list(all_graphs(model.graph))[1:] for n in g.node}
    )
    failure = ""
    for blocked in ((), DELICATE, (*DELICATE, *CONTROL, *inside)):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        try:
            made = convert_float_to_float16(
                copy,
                keep_io_types=True,
                op_block_list=[*DEFAULT_OP_BLOCK_LIST, *blocked],
                node_block_list=list(kept),
            )
            for graph in all_graphs(made.graph):
                sort_nodes(graph)
            open_with(made.SerializeToString(), options_of(Session()))
        except CONVERTER_ERRORS as error:
            failure = str(error).strip()[:200]
            continue
        notes = (f"{', '.join(blocked)} stay in 32 bits: {failure}",) if blocked else ()
        return made, notes
    raise ValueError(failure)


def halves(model: onnx.ModelProto) -> int:
    """Return how many constants are 16-bit floats."""
    return sum(
        tensor.data_type == TensorProto.FLOAT16
        for graph in all_graphs(model.graph)
        for tensor in graph.initializer
    )
