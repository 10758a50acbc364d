"""Mend the prepared float graph so that it quantizes better; it computes the same.

Every repair is checked by running: one that changes an output by more than rounding is
undone, with a note. Runs in a child.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.recipe import Repair
from quarterdeck_controller.optimize.repair.equalize import equalize
from quarterdeck_controller.optimize.repair.graph import Array
from quarterdeck_controller.optimize.repair.observe import (
    SAMPLES,
    open_graph,
    save_graph,
    spaced,
)
from quarterdeck_controller.optimize.repair.smooth import smooth
from quarterdeck_controller.optimize.steps import Repaired, RepairRequest

EQUAL = 1e-3
"""Largest relative error of what may only round differently."""
CHECKED = 4

Change = Callable[..., tuple[str, ...]]

REPAIRS: Mapping[Repair, Change] = MappingProxyType(
    {"equalize": equalize, "smooth": smooth}
)


def repair(request: RepairRequest) -> Repaired:
    """Write the mended graph to ``request.out``, the given one when all is well."""
    model = onnx.load(request.model)
    stored = Stored.open(request.samples)
    mended, changed, notes = mend(model, request.repairs, stored, batch=request.batch)
    save_graph(mended, request.out)
    return Repaired(changed=changed, notes=notes)


def mend(
    model: onnx.ModelProto,
    repairs: Sequence[Repair],
    stored: Stored,
    *,
    batch: int,
    equal: float = EQUAL,
) -> tuple[onnx.ModelProto, int, tuple[str, ...]]:
    """Return the graph with the repairs that keep its outputs.

    Args:
        model: A prepared float graph; it is not changed.
        repairs: Those that are not made on the float graph are passed over.
        stored: Calibration samples.
        batch: How many samples may be run at once.
        equal: Largest relative error of an output that a repair may bring.

    Returns:
        The graph, how many operators changed, and what to know.
    """
    rows = spaced(stored.count, SAMPLES)
    feeds = [stored.sample(row) for row in spaced(stored.count, CHECKED)]
    expected = _run(model, feeds)
    changed: dict[str, None] = {}
    notes: list[str] = []
    for name in repairs:
        if name not in REPAIRS:
            continue
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        found = REPAIRS[name](copy, stored, batch=batch, rows=rows)
        worst = _worst(expected, _run(copy, feeds)) if found else 0.0
        if worst > equal:
            notes.append(
                f"{name} was undone: it changed outputs by {worst:.1e}, "
                f"at most {equal:.0e} may be"
            )
        elif found:
            model = copy
            changed.update(dict.fromkeys(found))
            notes.append(f"{name} changed {len(found)} operators; outputs are equal")
    return model, len(changed), tuple(notes)


def _run(model: onnx.ModelProto, feeds: Sequence[dict[str, Array]]) -> list[Array]:
    session = open_graph(model)
    return [np.asarray(one) for feed in feeds for one in session.run(None, feed)]


def _worst(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Return the largest difference as a share of an output's root mean square."""
    worst = 0.0
    for wanted, got in zip(expected, found, strict=True):
        if wanted.shape != got.shape:
            return float("inf")
        if wanted.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(wanted, got) else float("inf"))
        elif wanted.size:
            worst = max(worst, _error(wanted.astype(np.float64), got))
    return worst


def _error(wanted: Array, got: Array) -> float:
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(got)):
        return float("inf")
    noise = np.sqrt(np.mean((wanted[finite] - got[finite]) ** 2)) if finite.any() else 0
    signal = np.sqrt(np.mean(wanted[finite] ** 2)) if finite.any() else 0
    return float(noise / max(signal, 1e-9))
