"""Make the file of a variant by a recipe. Runs in a child."""

import onnx

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.quantize.make import Made, make
from quarterdeck_controller.optimize.quantize.shrink import give_first, shrink
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.recipe import TUNING_REPAIRS
from quarterdeck_controller.optimize.steps import BuildRequest, Built
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


def build(request: BuildRequest) -> Built:
    """Write the variant to ``request.out``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the recipe changes nothing in this model,
            or the variant is too large for one file.
    """
    model = onnx.load(request.model)
    made = make(
        model,
        load_spreads(request.spreads),
        request.recipe,
        operators=request.operators,
        fold=request.fold,
    )
    if not set(made.treated) - {"float"}:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"{request.recipe.name} finds nothing to quantize in this model",
        )
    variant, notes = _tuned(request, model, made)
    give_first(variant.graph, request.output)
    shrink(variant, names=request.names)
    data = variant.SerializeToString(deterministic=True)
    request.out.write_bytes(data)
    return Built(bytes=len(data), treated=made.treated, notes=(*made.notes, *notes))


def _tuned(
    request: BuildRequest, model: onnx.ModelProto, made: Made
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    wanted = tuple(r for r in request.recipe.repairs if r in TUNING_REPAIRS)
    if not wanted:
        return made.model, ()
    from quarterdeck_controller.optimize.repair.tuning import tune

    stored = Stored.open(request.samples)
    return tune(model, made.model, wanted, stored, request.batch)
