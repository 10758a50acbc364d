"""Find what quantizing each operator alone costs in accuracy. Runs in a child.

One session runs every operator's variant in turn (see ``gates``), on the same samples,
and the judged output is held against the float one of that session.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

import numpy as np
import onnx
import onnxruntime as ort

from quarterdeck_controller.optimize.data.stored import Feed, Stored
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.repair.gates import (
    NONE,
    Candidate,
    Gated,
    gate_operators,
)
from quarterdeck_controller.optimize.repair.graph import Array
from quarterdeck_controller.optimize.repair.observe import open_graph, spaced
from quarterdeck_controller.optimize.session import infer
from quarterdeck_controller.optimize.steps import Sensed, SenseRequest, Sensitivity
from quarterdeck_shared.clock import Clock, SystemClock

BEST_DB = 150.0
"""An output that does not differ at all."""
WORST_DB = -50.0
"""An output that is no number any more, or of another shape."""


def sense(request: SenseRequest, clock: Clock | None = None) -> Sensed:
    """Return the operators by how much their treatment alone disturbs the output.

    A recipe for the whole graph (``fp16``) treats no operator alone: it finds none.
    """
    if request.recipe.kind == "fp16":
        return Sensed(nodes=(), complete=True)
    clock = SystemClock() if clock is None else clock
    until = clock.monotonic() + request.seconds
    model = onnx.load(request.model)
    gated = gate_operators(
        model,
        load_spreads(request.spreads),
        request.recipe,
        request.operators,
    )
    if not gated.candidates:
        return Sensed(nodes=(), complete=True)
    stored = Stored.open(request.samples)
    rows = spaced(stored.count, request.rows)
    probe = _Probe.of(gated, request.output, list(stored.batches(request.batch, rows)))
    found: list[Sensitivity] = []
    for number, candidate in enumerate(gated.candidates):
        if clock.monotonic() > until:
            break
        found.append(_told(candidate, probe.sqnr_db(number)))
    order = sorted(found, key=lambda one: one.sqnr_db)  # stable: ties by graph order
    return Sensed(nodes=tuple(order), complete=len(found) == len(gated.candidates))


@dataclass(frozen=True, slots=True)
class _Probe:
    """The session, and what it must say when all is float."""

    session: ort.InferenceSession
    gate: str
    output: str
    feeds: Sequence[Feed]
    expected: Sequence[Array]

    @classmethod
    def of(cls, gated: Gated, output: str, feeds: Sequence[Feed]) -> "_Probe":
        session = open_graph(gated.model)
        probe = cls(session, gated.gate, output, feeds, ())
        expected = [probe.run(feed, NONE) for feed in feeds]
        return cls(session, gated.gate, output, feeds, expected)

    def run(self, feed: Feed, number: int) -> Array:
        fed = {**feed, self.gate: np.array(number, np.int64)}
        return np.asarray(infer(self.session, [self.output], fed)[0], np.float64)

    def sqnr_db(self, number: int) -> float:
        """Return the judged output's signal to noise with one operator quantized."""
        signal = noise = 0.0
        for feed, wanted in zip(self.feeds, self.expected, strict=True):
            found = self.run(feed, number)
            if found.shape != wanted.shape:
                return WORST_DB
            clear = np.isfinite(wanted)
            signal += float((wanted[clear] ** 2).sum())
            noise += float(((found[clear] - wanted[clear]) ** 2).sum())
        return sqnr_db(signal, noise)


def sqnr_db(signal: float, noise: float) -> float:
    """Return the ratio of two powers in decibels, from ``WORST_DB`` to ``BEST_DB``."""
    if not np.isfinite(noise) or signal <= 0:
        return BEST_DB if noise == 0 else WORST_DB
    if noise == 0:
        return BEST_DB
    return min(BEST_DB, max(WORST_DB, 10 * log10(signal / noise)))


def _told(candidate: Candidate, found: float) -> Sensitivity:
    return Sensitivity(
        name=candidate.name,
        operator=candidate.operator,
        sqnr_db=round(found, 3),
        bytes=candidate.bytes,
    )
