"""Make the file of a variant by a recipe. Runs in a child."""

from dataclasses import replace
from pathlib import Path

import onnx

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.quantize.make import Made, make
from quarterdeck_controller.optimize.quantize.qoperator import to_qoperator
from quarterdeck_controller.optimize.quantize.shrink import give_first, shrink
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.recipe import TUNING_REPAIRS, Repair
from quarterdeck_controller.optimize.repair.tuning import tune
from quarterdeck_controller.optimize.steps import BuildRequest, Built
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MOST_BYTES = (1 << 31) - (1 << 20)
"""Of a protocol buffer, with some room for the graph."""


def build(request: BuildRequest) -> Built:
    """Write the variant to ``request.out``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the recipe changes nothing in this model,
            or when the variant is too large for one file.
    """
    model = onnx.load(request.model)
    made = _tuned(request, model)
    if not set(made.treated) - {"float"}:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"{request.recipe.name} finds nothing to quantize in this model",
        )
    give_first(made.model.graph, request.output)
    shrink(made.model, names=request.names, precise=request.precise)
    size = write(made.model, request.out)
    return Built(bytes=size, treated=made.treated, notes=made.notes)


def write(model: onnx.ModelProto, path: Path) -> int:
    """Write a variant, the same bytes for the same model, and return how many.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it is too large for one file.
    """
    size = model.ByteSize()
    if size > MOST_BYTES:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"the variant has {size} bytes and one file holds at most {MOST_BYTES}; "
            "leave fewer operators in float",
        )
    return path.write_bytes(model.SerializeToString(deterministic=True))


def _tuned(request: BuildRequest, model: onnx.ModelProto) -> Made:
    """Return the variant after the repairs of its integers.

    They are repaired between QuantizeLinear and DequantizeLinear; the other format is
    written from the result.
    """
    recipe = request.recipe
    wanted: tuple[Repair, ...] = tuple(r for r in recipe.repairs if r in TUNING_REPAIRS)
    made = make(
        model,
        load_spreads(request.spreads),
        replace(recipe, format="qdq") if wanted else recipe,
        operators=request.operators,
        # where products are widened the runtime spoils weights that it does not fold
        fold=request.fold or request.precise,
        keep=bool(wanted),
    )
    if not wanted:
        return made
    stored = Stored.open(request.samples)
    tuned, notes = tune(model, made.model, wanted, stored, request.batch)
    if recipe.format == "qoperator":
        to_qoperator(tuned)
    return Made(tuned, made.treated, (*made.notes, *notes))
