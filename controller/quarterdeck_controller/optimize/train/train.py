"""Train a quantized graph to answer like the float one. Runs in a child.

The graph itself is trained, from its file alone: PyTorch carries out its nodes, what
was learned goes back into its constants, and the runtime chooses the same kernels as
before. The result is judged by the real runtime on samples that were held out; what is
no better than the start is not written.
"""

from importlib import import_module

from quarterdeck_controller.optimize.steps import Trained, TrainRequest
from quarterdeck_controller.optimize.train.extra import require_torch
from quarterdeck_shared.clock import SystemClock


def train(request: TrainRequest) -> Trained:
    """Write the trained graph to ``request.out``, or the start if that is no worse.

    Raises:
        RejectedError: ``MODEL_INVALID`` when PyTorch is not installed, or naming an
            operator and its node that cannot be trained; ``DATA_INVALID`` when there
            are too few samples or labels do not fit.
    """
    require_torch("quantization-aware training (--qat)")
    module = import_module("quarterdeck_controller.optimize.train.teach")
    return Trained.model_validate(module.teach(request, SystemClock()))
