"""Optimize a model for device classes, each by its own climb, sharing all work.

    inspect -> load -> prepare -> float reference -> golden vectors
            -> for every class: climb the ladder -> confirm -> evaluation and story

Two classes that want the same candidate share it: results are kept by what went in, and
a search that was cut off goes on from them.
"""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from math import inf
from pathlib import Path
from secrets import token_hex

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.data.samples import Data, Given, Samples, save
from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.measure.machine import machine_isa
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.recipe import Kind
from quarterdeck_controller.optimize.report.histograms import (
    recipe_to_show,
    worst_histograms,
)
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.search import record, vectors
from quarterdeck_controller.optimize.search.cache import LIBRARIES, Cache
from quarterdeck_controller.optimize.search.climb import Climb
from quarterdeck_controller.optimize.search.confirm import Verdict, confirm
from quarterdeck_controller.optimize.search.floor import after_failure
from quarterdeck_controller.optimize.search.ready import Ready, Task, get_ready
from quarterdeck_controller.optimize.search.record import Context, Floats
from quarterdeck_controller.optimize.search.state import Facts
from quarterdeck_controller.optimize.search.story import Histogram, Story
from quarterdeck_controller.optimize.search.trial import Trials
from quarterdeck_controller.optimize.search.workbench import Workbench
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done.

    Attributes:
        device_class: For which class; empty is for all.
        rung: The step of the ladder.
        seconds: Since the start.
    """

    device_class: str
    rung: str
    sentence: str
    seconds: float


ROOM = 6
"""Address space of a step, in sizes of the model: the graph before and after, as bytes,
and as the runtime holds it."""

Show = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What an optimization may be told.

    Attributes:
        name: Name of the model, for its evaluation record.
        labels: Names of the classes, in the order of the scores.
        metric: By which it is judged; empty is the one that fits the data.
        seed: Splits the samples, draws golden vectors, trains.
        kinds: Kinds to try instead of those of the profile.
        qat: Whether integers may be trained where nothing cheaper meets the budget.
        time_budget_s: No rung is begun after so long.
        cache: Where results are kept for the next run; None keeps none.
        bounds: Limits of each step's child process.
        workers: Children at a time.
    """

    name: str = "model"
    labels: tuple[str, ...] = ()
    metric: str = ""
    seed: int = 0
    kinds: tuple[Kind, ...] = ()
    qat: bool = False
    time_budget_s: float = inf
    cache: Path | None = None
    bounds: Bounds = field(default_factory=Bounds)
    workers: int = min(2, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Optimization:
    """What came out for one class.

    Attributes:
        evaluation: The record, with the decision and its reason.
        story: Everything that was tried, and why.
        model: The variant's file: the chosen one or, when refused, the nearest miss;
            None when no candidate could be made.
        golden: The file of golden vectors.
    """

    profile: Profile
    evaluation: Evaluation
    story: Story
    model: bytes | None
    golden: bytes

    @property
    def accepted(self) -> bool:
        """Whether the variant meets the class's budget."""
        return self.evaluation.decision == "accepted"


def optimize(
    model: Path,
    data: Data,
    profile: Profile,
    *,
    options: Options = Options(),
    on_progress: Show = lambda _: None,
) -> Optimization:
    """Return the best variant of ``model`` for one device class, or a refusal.

    Args:
        model: A float ONNX model, or a PyTorch module as ``file.py:function``.
        data: Samples for ranges, and others for the verdict.
        profile: The device class.
        options: What else may be told.
        on_progress: Called from several threads as the search goes on.

    Raises:
        RejectedError: ``MODEL_INVALID``, ``DATA_INVALID``, ``PROFILE_INVALID``,
            ``NAME_INVALID``, ``DISK_FULL`` or ``DISK_FAILED``. That no variant meets
            the budget is no error: it is the decision in the evaluation.
    """
    return optimize_all(
        model, data, [profile], options=options, on_progress=on_progress
    )[0]


def optimize_all(
    model: Path,
    data: Data,
    profiles: Sequence[Profile],
    *,
    options: Options = Options(),
    on_progress: Show = lambda _: None,
    clock: Clock | None = None,
) -> tuple[Optimization, ...]:
    """Return one optimization per profile, in their order; shared work is done once.

    Raises:
        RejectedError: As ``optimize``.
    """
    _check_options(options, profiles)
    clock = clock or SystemClock()
    try:
        with tempfile.TemporaryDirectory(prefix="quarterdeck-") as name:
            folder = Path(name)
            with _workbench(folder, model, options) as bench:
                task = _task(folder, _exported(bench, folder, model), data, options)
                run = _Run(bench, options, on_progress, clock, clock.monotonic(),
                           token_hex(16), clock.now())  # fmt: skip
                return run.all(get_ready(
                    bench, folder, task, tuple(profiles), run.saying("")
                ), profiles)  # fmt: skip
    except OSError as error:
        raise RejectedError(
            disk_code(error),
            f"the work folder in {tempfile.gettempdir()} or the cache failed: "
            f"{error.strerror}; set TMPDIR to another disk",
        ) from error


@dataclass(frozen=True, slots=True)
class _Run:
    bench: Workbench
    options: Options
    show: Show
    clock: Clock
    began: float
    invocation: str
    started: datetime

    def saying(self, device_class: str) -> Callable[[str, str], None]:
        def say(rung: str, sentence: str) -> None:
            seconds = self.clock.monotonic() - self.began
            self.show(Progress(device_class, rung, sentence, seconds))

        return say

    def all(
        self, ready: Ready, profiles: Sequence[Profile]
    ) -> tuple[Optimization, ...]:
        pool = ThreadPoolExecutor(len(profiles))
        try:
            futures = [pool.submit(self.one, ready, profile) for profile in profiles]
            return tuple(future.result() for future in futures)
        finally:
            self.bench.sandbox.close()
            pool.shutdown(cancel_futures=True)

    def one(self, ready: Ready, profile: Profile) -> Optimization:
        tell = self.saying(profile.name)
        trials = Trials(self.bench, ready, profile)
        facts = Facts(
            nodes=ready.nodes, kinds=self._kinds(profile), qat=self.options.qat
        )
        ends = self.began + self.options.time_budget_s
        climb = Climb(trials, facts, self.clock, ends, tell)
        climb.run()
        verdict = confirm(trials, climb.candidates, tell)
        if verdict is not None and verdict.fitted and not verdict.accepted:
            move = after_failure(climb.candidates, climb.facts)
            if move is not None:
                climb.make(move)
                verdict = confirm(trials, climb.candidates, tell)
        result = self._conclude(trials, climb, verdict)
        tell("done", f"{result.evaluation.decision}: {result.evaluation.reason}")
        return result

    def _kinds(self, profile: Profile) -> tuple[Kind, ...]:
        return self.options.kinds or profile.support.kinds

    def _conclude(
        self, trials: Trials, climb: Climb, verdict: Verdict | None
    ) -> Optimization:
        ready, profile = trials.ready, trials.profile
        floats = Floats(
            trials.measured_float(),
            trials.audited(ready.model),
            record.compressed_bytes(ready.model.read_bytes()),
        )
        model = verdict.variant.path.read_bytes() if verdict else None
        golden = vectors.encode(
            Stored.open(ready.evaluation.folder),
            trials.vectors,
            ready.source.score_output,
        )
        context = self._context()
        audit = trials.audited(verdict.variant.path) if verdict else None
        evaluation = record.write_evaluation(
            ready,
            profile,
            verdict,
            climb.candidates,
            floats=floats,
            model=model,
            files=_digests(model, golden),
            context=context,
        )
        story = record.write_story(
            ready,
            climb,
            verdict,
            floats=floats,
            histograms=_histograms(trials, climb, verdict),
            variant_audit=audit,
            context=context,
            seconds=self.clock.monotonic() - self.began,
        )
        return Optimization(profile, evaluation, story, model, golden)

    def _context(self) -> Context:
        options = self.options
        return Context(
            name=options.name,
            labels=options.labels,
            seed=options.seed,
            versions=_versions(),
            isa=machine_isa(),
            invocation=self.invocation,
            started=self.started,
            finished=self.clock.now(),
        )


def _versions() -> dict[str, str]:
    tools = ("quarterdeck-controller", *LIBRARIES)
    return {name: version(name) for name in tools} | {
        "python": platform.python_version()
    }


@contextmanager
def _workbench(folder: Path, model: Path, options: Options) -> Iterator[Workbench]:
    cache = Cache(options.cache or folder / "cache")
    sandbox = Sandbox(folder / "steps", _bounds(options.bounds, model))
    isa = " ".join(machine_isa())
    machine = f"{platform.node()} {isa} {os.cpu_count()}"
    try:
        yield Workbench(sandbox, cache, machine, options.workers)
    finally:
        sandbox.close()


def _bounds(bounds: Bounds, model: Path) -> Bounds:
    """Return bounds that leave room for a large model: some steps hold it often."""
    beside = model.parent.glob(f"{model.stem}*") if model.is_file() else ()
    size = sum(file.stat().st_size for file in beside if file.is_file())
    return replace(bounds, memory_mb=max(bounds.memory_mb, ROOM * size >> 20))


def _exported(bench: Workbench, folder: Path, model: Path) -> Path:
    """Return the model file, made from a PyTorch module where one is named."""
    if ":" not in model.name or model.exists():
        return model
    out = folder / "exported.onnx"
    request = steps.ExportRequest(source=str(model), out=out)
    bench.sandbox.run("export", request, steps.Exported)
    return out


def _task(folder: Path, model: Path, data: Data, options: Options) -> Task:
    return Task(
        model=model,
        calibration=_source(data.calibration, folder / "calibration.npz"),
        evaluation=_source(data.evaluation, folder / "evaluation.npz"),
        metric=options.metric,
        labels=options.labels,
        seed=options.seed,
    )


def _source(given: Given, file: Path) -> str:
    return str(save(given, file)) if isinstance(given, Samples) else str(given)


def _histograms(
    trials: Trials, climb: Climb, verdict: Verdict | None
) -> tuple[Histogram, ...]:
    chosen = verdict.candidate.recipe if verdict else None
    shown = recipe_to_show(chosen, climb.candidates)
    if shown is None:
        return ()
    try:
        spreads = load_spreads(trials.spreads(shown))
    except RejectedError:  # its graph could not be made: there is nothing to show
        return ()
    return worst_histograms(spreads, shown)


def _digests(model: bytes | None, golden: bytes) -> dict[str, str]:
    if model is None:
        return {}
    files = {"model.onnx": model, "golden.npz": golden}
    return {name: sha256(data).hexdigest() for name, data in files.items()}


def _check_options(options: Options, profiles: Sequence[Profile]) -> None:
    if not profiles:
        raise RejectedError(Code.PROFILE_INVALID, "no device class was asked for")
    names = [profile.name for profile in profiles]
    if len(set(names)) < len(names):
        raise RejectedError(
            Code.PROFILE_INVALID, f"a class is asked for twice: {', '.join(names)}"
        )
    if not is_name(options.name):
        raise RejectedError(Code.NAME_INVALID, f"{options.name!r} cannot name a model")
