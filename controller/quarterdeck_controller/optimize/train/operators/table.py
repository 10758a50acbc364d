"""Every operator that training knows, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from quarterdeck_controller.optimize.train.operators.call import Operator
from quarterdeck_controller.optimize.train.operators.elementwise import ELEMENTWISE
from quarterdeck_controller.optimize.train.operators.layers import LAYERS
from quarterdeck_controller.optimize.train.operators.quantized import QUANTIZED
from quarterdeck_controller.optimize.train.operators.recurrent import RECURRENT
from quarterdeck_controller.optimize.train.operators.reduction import REDUCTION
from quarterdeck_controller.optimize.train.operators.resize import resize
from quarterdeck_controller.optimize.train.operators.shaping import SHAPING

DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        **ELEMENTWISE,
        **REDUCTION,
        **SHAPING,
        **LAYERS,
        **RECURRENT,
        **QUANTIZED,
        "Resize": resize,
    }
)
CONTROL = frozenset({"If", "Loop", "Scan"})
"""Operators whose subgraphs run or not as the data say."""
