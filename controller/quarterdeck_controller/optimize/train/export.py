"""Make an ONNX model of a PyTorch module. Runs in a child.

The module comes from a function of the operator's own, named as those that bring data
are. The exporter that traces is asked first: its graphs are plain, and quantize best.
If it cannot, the one that reads the program is. The file must say what the module says.
"""

from importlib import import_module

from quarterdeck_controller.optimize.data.entry import (
    find_function,
    names_function,
    told,
)
from quarterdeck_controller.optimize.steps import Exported, ExportRequest
from quarterdeck_controller.optimize.train.extra import require_torch
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


def export(request: ExportRequest) -> Exported:
    """Write the module that ``request.source`` names to ``request.out``.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is no such function or it fails;
            ``MODEL_INVALID`` when PyTorch is not installed, the function does not
            return a module and its example inputs, no exporter takes the module, or
            the file does not say what the module says.
    """
    require_torch("a PyTorch module as model")
    if not names_function(request.source):
        raise RejectedError(
            Code.MODEL_INVALID,
            f"{request.source!r} is not of the form file.py:function or "
            "module:function",
        )
    function = find_function(request.source)
    with told(request.source):
        given = function()
    exporter = import_module("quarterdeck_controller.optimize.train.exporter")
    notes = exporter.write(request.source, given, request.out)
    return Exported(notes=tuple(notes))
