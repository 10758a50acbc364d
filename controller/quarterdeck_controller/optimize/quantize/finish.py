"""Make a variant that kept its names into a device's file. Runs in a child."""

import onnx

from quarterdeck_controller.optimize.quantize.shrink import give_first, shrink
from quarterdeck_controller.optimize.steps import Finished, FinishRequest


def finish(request: FinishRequest) -> Finished:
    """Write the variant without its names to ``request.out``."""
    model = onnx.load(request.model)
    give_first(model.graph, request.output)
    shrink(model, precise=request.precise)
    data = model.SerializeToString(deterministic=True)
    request.out.write_bytes(data)
    return Finished(bytes=len(data))
