"""Operators that the optimizer speaks of as a group. Pure, and loads nothing."""

HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""What multiplies by weights, and is worth int8."""
PRODUCTS = frozenset({"MatMul", "Gemm"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
LOOKUPS = frozenset({"Gather", "GatherND", "GatherElements"})
CONTROL = frozenset({"If", "Loop", "Scan"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
RANDOM = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    }
)
"""Operators that answer differently at every run."""
TARGET_OPSET = 17
"""What a prepared graph has at least."""
