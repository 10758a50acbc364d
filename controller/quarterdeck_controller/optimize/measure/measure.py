"""Find what one inference of a model costs, in turns with the float model.

Runs in a child of its own: peak memory is read after the first inferences and before
anything else is loaded, so it is that of a process that does nothing but load and run
this model.

Other work on the machine slows an inference down at random and for a while. The two
models therefore run one inference each in turns, the first of a pair changing, and the
ratio is the median over the pairs: what hits a pair hits both, and what hits one of a
pair is an outlier. With three more busy processes on two cores a model against itself
stays within 2 % that way; quotients of minima or of quantiles spread twice as far.
Latencies are those of the inferences that did not wait for the processor.
"""

import re
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median

import onnxruntime as ort

from quarterdeck_controller.optimize.data.stored import Feed, Stored
from quarterdeck_controller.optimize.session import infer, open_session
from quarterdeck_controller.optimize.steps import (
    Audit,
    AuditRequest,
    Measured,
    MeasureRequest,
    Times,
)
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.session import Session

WARM_UP = 5
WARM_UP_S = 2.0

WAITED = 1.25
WAITED_S = 0.0002
"""An inference waited when its wall-clock time is past so much of its processor time
and so much more."""

FEWEST_TURNS = 7
"""Of a model so slow that the time is up; a median of fewer says little."""
TURNS = 200
MOST_TURNS = 2000
LATENCY_S = 4.0
LONG_ENOUGH_S = 1.0
"""Turns of a quick model go on past ``TURNS`` until they have taken so long: other
work comes in bursts, and a tenth of a second may lie in one."""


def measure(request: MeasureRequest) -> Measured:
    """Return time and memory of ``request.model``, and the time of its reference.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open or run a model.
    """
    clock = SystemClock()
    feed = Stored.open(request.samples).sample(0)
    before = clock.monotonic()
    model = _Runner(open_session(request.model, request.session), feed)
    model.once()
    load_ms = 1000 * (clock.monotonic() - before)
    model.warm_up(clock)
    memory = peak_memory_mb()
    reference = _open_reference(request.reference, request.session, feed, clock)
    _take_turns(model, reference, clock)
    return Measured(
        peak_memory_mb=memory,
        load_ms=load_ms,
        times=model.times(),
        reference_times=reference and reference.times(),
        ratio=reference and ratio_of(model.wall_s, reference.wall_s),
        audit=_audited(request) if request.audit else None,
    )


def _audited(request: MeasureRequest) -> Audit:
    # only now: what reads graphs takes memory that is not the model's
    module = import_module("quarterdeck_controller.optimize.measure.audit")
    asked = AuditRequest(
        model=request.model, samples=request.samples, session=request.session
    )
    found: Audit = module.audit(asked)
    return found


def ratio_of(ours: list[float], theirs: list[float]) -> float:
    """Return the median over the pairs of what ours took as a share of theirs. Pure."""
    return median(a / max(b, 1e-9) for a, b in zip(ours, theirs, strict=True))


def undisturbed(wall_s: list[float], cpu_s: list[float]) -> list[float]:
    """Return the latencies of inferences that had the processor to themselves. Pure.

    One that took much longer than the processor worked on it waited for other work on
    this machine, which says nothing of the model. When most did, all are returned: then
    the waiting may be the model's own.
    """
    quiet = [
        wall
        for wall, cpu in zip(wall_s, cpu_s, strict=True)
        if wall <= WAITED * cpu + WAITED_S
    ]
    return quiet if len(quiet) >= len(wall_s) / 2 else wall_s


def enough(turns: int, elapsed_s: float) -> bool:
    """Return whether so many turns in so long a time will do. Pure."""
    if elapsed_s >= LATENCY_S:
        return turns >= FEWEST_TURNS
    return turns >= MOST_TURNS or (turns >= TURNS and elapsed_s >= LONG_ENOUGH_S)


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process, from the kernel's own count."""
    status = Path("/proc/self/status").read_text("ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


@dataclass(slots=True)
class _Runner:
    """A model with what its inferences took, in seconds."""

    session: ort.InferenceSession
    feed: Feed
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def once(self) -> None:
        infer(self.session, None, self.feed)

    def warm_up(self, clock: Clock) -> None:
        start = clock.monotonic()
        for _ in range(WARM_UP):
            if clock.monotonic() - start > WARM_UP_S:
                return
            self.once()

    def timed(self, clock: Clock) -> None:
        cpu, wall = time.process_time(), clock.monotonic()
        self.once()
        self.wall_s.append(clock.monotonic() - wall)
        self.cpu_s.append(time.process_time() - cpu)

    def times(self) -> Times:
        quiet = undisturbed(self.wall_s, self.cpu_s)
        ordered = sorted(1000 * seconds for seconds in quiet)
        return Times(
            p50_ms=quantile(ordered, 0.5),
            p90_ms=quantile(ordered, 0.9),
            p99_ms=quantile(ordered, 0.99),
            cpu_ms=1000 * median(self.cpu_s),
        )


def quantile(ordered: list[float], share: float) -> float:
    """Return the smallest of the ordered values that ``share`` of them do not exceed.

    The nearest-rank definition: always one of the values, and the largest when there
    are too few to tell.
    """
    rank = -int(-share * len(ordered) // 1)
    return ordered[max(rank, 1) - 1]


def _open_reference(
    model: Path | None, session: Session, feed: Feed, clock: Clock
) -> _Runner | None:
    if model is None:
        return None
    runner = _Runner(open_session(model, session), feed)
    runner.warm_up(clock)
    return runner


def _take_turns(model: _Runner, reference: _Runner | None, clock: Clock) -> None:
    pair = [model, reference] if reference else [model]
    start, turns = clock.monotonic(), 0
    while not enough(turns, clock.monotonic() - start):
        for runner in pair if turns % 2 else reversed(pair):
            runner.timed(clock)
        turns += 1
