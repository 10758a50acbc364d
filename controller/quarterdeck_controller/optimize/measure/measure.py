"""Run a model on the evaluation samples: scores, latency, memory. Runs in a child.

The order matters: memory is read after single inferences and before anything else is
loaded, and latency is taken in turns with the float model, so that both see the same
machine.
"""

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort

from quarterdeck_controller.optimize.metric.score import percentile
from quarterdeck_controller.optimize.session import (
    Feed,
    batches,
    open_samples,
    open_session,
    rows,
    scores,
)
from quarterdeck_controller.optimize.steps import (
    GOLDEN_SCORES,
    SCORES,
    Measured,
    MeasureRequest,
    Times,
)
from quarterdeck_shared.clock import Clock, SystemClock

WARM_UP = 5
FEWEST_ROUNDS = 20
MOST_ROUNDS = 200
LATENCY_S = 4.0


def measure(request: MeasureRequest) -> Measured:
    """Write the scores into ``request.out`` and return the figures."""
    clock = SystemClock()
    samples = open_samples(request.samples, request.inputs)
    one = next(rows(samples, [0]))
    session = open_session(request.model, threads=request.threads)
    for _ in range(WARM_UP):
        session.run(None, one)
    memory = _peak_memory_mb()
    if request.golden:
        replayed = scores(session, request.output, rows(samples, request.golden))
        np.save(request.out / GOLDEN_SCORES, replayed)
    reference = request.reference and open_session(
        request.reference, threads=request.threads
    )
    sessions = [session, reference] if reference else [session]
    times = _latencies(sessions, one, clock)
    every = scores(session, request.output, batches(samples, request.batch))
    np.save(request.out / SCORES, every)
    return Measured(
        peak_memory_mb=memory,
        times=times[0],
        reference_times=times[1] if reference else None,
    )


def _latencies(
    sessions: list[ort.InferenceSession], feed: Feed, clock: Clock
) -> list[Times]:
    seen: list[list[float]] = [[] for _ in sessions]
    start = clock.monotonic()
    for number in range(WARM_UP + MOST_ROUNDS):
        for session, times in zip(sessions, seen, strict=True):
            before = clock.monotonic()
            session.run(None, feed)
            times.append(1000 * (clock.monotonic() - before))
        enough = number >= WARM_UP + FEWEST_ROUNDS
        if enough and clock.monotonic() - start > LATENCY_S:
            break
    return [_times(times[WARM_UP:]) for times in seen]


def _times(values: list[float]) -> Times:
    ordered = sorted(values)
    return Times(
        p50_ms=percentile(ordered, 0.5),
        p90_ms=percentile(ordered, 0.9),
        p99_ms=percentile(ordered, 0.99),
    )


def _peak_memory_mb() -> float:
    """Return the peak resident memory of this process, from the kernel's own count."""
    status = Path("/proc/self/status").read_text("ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
