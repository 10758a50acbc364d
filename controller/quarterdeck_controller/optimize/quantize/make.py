"""Make a variant of a graph by a recipe: decide, then write, treatment by treatment."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import onnx

from quarterdeck_controller.optimize.quantize.flow import flow
from quarterdeck_controller.optimize.quantize.graph import all_graphs, drop_unused
from quarterdeck_controller.optimize.quantize.half import halves, to_half
from quarterdeck_controller.optimize.quantize.products import write_products
from quarterdeck_controller.optimize.quantize.qoperator import to_qoperator
from quarterdeck_controller.optimize.quantize.spread import Spreads
from quarterdeck_controller.optimize.quantize.static import write_static
from quarterdeck_controller.optimize.quantize.treatment import treatments
from quarterdeck_controller.optimize.quantize.weights import write_weights
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


@dataclass(frozen=True, slots=True)
class Made:
    """A variant.

    Attributes:
        treated: How many operators got which treatment; operators that hold or
            multiply nothing are not counted.
        notes: Why operators did not get what the recipe asks for.
    """

    model: onnx.ModelProto
    treated: dict[str, int]
    notes: tuple[str, ...]


def make(
    model: onnx.ModelProto,
    spreads: Spreads,
    recipe: Recipe,
    *,
    operators: Collection[str] = (),
    fold: bool = True,
    only: Collection[str] | None = None,
    keep: bool = True,
) -> Made:
    """Return a variant of a prepared graph.

    Args:
        model: A prepared float graph: constants are initializers, every operator has
            a name of its own.
        spreads: Of its tensors.
        recipe: What is asked for.
        operators: Operators that the class's runtime quantizes; empty is all.
        fold: Whether weights-only operators are written so that the runtime makes
            them float once, when it loads.
        only: Names of operators that get the recipe's kind while everything else
            stays as it is; None is all.
        keep: Whether ``model`` stays as it is. Else it becomes the variant, which
            needs half the memory.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime loads no 16-bit version.
    """
    if recipe.kind == "fp16":
        return _in_half(model, recipe)
    made = _copy(model) if keep else model
    names = {t.name for g in all_graphs(model.graph) for t in g.initializer}
    treated = treatments(made.graph, spreads, recipe, operators=operators, only=only)
    flowing = flow(made.graph, treated, spreads, recipe, operators)
    write_products(made, treated, recipe)
    write_static(made, treated, flowing, spreads, recipe)
    if recipe.format == "qoperator":
        to_qoperator(made)
    drop_unused(made.graph)
    others = only is None and recipe.rest != "float"
    write_weights(made, treated, recipe, names, fold=fold, others=others)
    del made.graph.value_info[:]
    counts = Counter(treated.by_name.values())
    counts["static"] += flowing.joined
    return Made(
        made, {k: counts[k] for k in sorted(counts) if counts[k]}, treated.notes
    )


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _in_half(model: onnx.ModelProto, recipe: Recipe) -> Made:
    kept = [name for name, treatment in recipe.overrides if treatment == "float"]
    try:
        made, notes = to_half(model, kept)
    except ValueError as error:
        raise RejectedError(
            Code.MODEL_INVALID, f"the runtime loads no 16-bit version: {error}"
        ) from error
    return Made(made, {"half": halves(made)}, notes)
