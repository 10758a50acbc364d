"""Put bad variants through the optimizer's gate: every one must be refused.

A sandbox that gives one file for whatever is built; all that judges is the real thing.
The files are float models spoilt on purpose, and whatever the peers made that loses too
much, is slower than float, or does not run.
"""

import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_controller.optimize.profile import Profile, load_profile
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.sandbox import A, Bounds, Sandbox
from quarterdeck_controller.optimize.search import ready as at
from quarterdeck_controller.optimize.search.cache import Cache
from quarterdeck_controller.optimize.search.choose import misses
from quarterdeck_controller.optimize.search.confirm import confirm
from quarterdeck_controller.optimize.search.trial import Trials
from quarterdeck_controller.optimize.search.workbench import Workbench
from quarterdeck_controller.optimize.steps import BuildRequest, Record, StepName
from tests.bench.quantization.compare import peer_file
from tests.bench.quantization.peers.registry import PEERS
from tests.bench.quantization.row import Row
from tests.bench.quantization.spoil import WAYS, spoilt
from tests.bench.quantization.targets import Budget, Verdict
from tests.bench.quantization.task import Task, prepared
from tests.bench.quantization.tasks.registry import RECIPES

CLASS = "gateway-x86-vnni"
ROOM = {"size_ratio": 1.2, "latency_ratio": 1.1}
"""Float itself is to be accepted, whatever the machine does meanwhile."""
CONTROL = "float itself"
"""Put in as well: a gate that refuses everything proves nothing."""
CLEARLY_SLOWER, CLEAR_POINTS = 1.3, 1.0
"""Past the limits by this, so that another measurement would say the same."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate said of a file.

    Attributes:
        name: What was put in.
        reason: Why it was refused; empty when it was accepted.
    """

    task: str
    name: str
    accepted: bool
    reason: str


@dataclass(slots=True)
class Substituting(Sandbox):
    """A sandbox whose builds all give one file."""

    file: Path = Path()

    def run(
        self,
        step: StepName,
        request: Record,
        answer: type[A],
        *,
        seconds: float | None = None,
    ) -> A:
        """Put the file where something is to be built; see ``Sandbox``."""
        if not isinstance(request, BuildRequest):
            return Sandbox.run(self, step, request, answer, seconds=seconds)
        shutil.copy(self.file, request.out)
        size = self.file.stat().st_size
        return answer.model_validate({"bytes": size, "treated": {}, "notes": ()})


def bad_ships(rows: Sequence[Row], spoil: str, limits: Budget) -> Iterator[Judgement]:
    """Yield what the gate says of every bad file there is.

    Args:
        rows: Of the benchmark; the peers' bad ones among them are put in.
        spoil: The task whose float model is spoilt in every way.
        limits: What the class allows.
    """
    profile = _profile()
    for name in dict.fromkeys(row.task for row in rows):
        task = prepared(RECIPES[name])
        with tempfile.TemporaryDirectory() as folder:
            files = dict(_peers_files(task, rows, limits))
            if name == spoil:
                files |= dict(_spoilt_files(task, Path(folder)))
            if files:
                yield from judged(task, profile, {CONTROL: task.model, **files})


def verdict(judgements: Sequence[Judgement]) -> Verdict:
    """Return whether all that is bad was refused, and what is good was not."""
    wrong = [one for one in judgements if one.accepted != (one.name == CONTROL)]
    bad = [one for one in judgements if one.name != CONTROL]
    caught = sum(not one.accepted for one in bad)
    told = [f"{caught} of {len(bad)} refused"]
    told += [f"{one.task} {one.name}: {one.reason or 'accepted'}" for one in wrong]
    return Verdict(
        "every bad variant put in on purpose is refused, and float itself is not",
        "; ".join(told),
        not wrong if bad else None,
    )


def judged(
    task: Task, profile: Profile, files: Mapping[str, Path]
) -> Iterator[Judgement]:
    """Yield what the gate of ``profile`` says of each file, as variants of the task."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sandbox = Substituting(folder / "steps", Bounds())
        bench = Workbench(sandbox, Cache(folder / "cache"), platform.node())
        given = (str(task.calibration), str(task.evaluation), task.metric)
        try:
            asked = at.Task(task.model, *given)
            ready = at.get_ready(bench, folder, asked, (profile,), lambda *_: None)
            for number, (label, file) in enumerate(files.items()):
                sandbox.file = file
                yield _judged(label, number, Trials(bench, ready, profile), task.name)
        finally:
            sandbox.close()


def _judged(label: str, number: int, trials: Trials, task: str) -> Judgement:
    # the recipe is not what is judged; another one each time, as results are kept
    recipe = Recipe("weights", overrides=((f"put in {number}", "float"),))
    candidate = trials.attempt(recipe, "floor", "put in on purpose")
    if candidate.figures is None:
        failure = str(candidate.failure)
        return Judgement(task, label, accepted=False, reason=failure)
    verdict = confirm(trials, [candidate], lambda *_: None)
    assert verdict is not None, "a candidate that was measured gets a verdict"
    told = [miss.sentence for miss in misses(candidate.figures, trials.profile)]
    reason = "; ".join(told or verdict.broken)
    return Judgement(task, label, verdict.accepted, reason)


def _profile() -> Profile:
    """Return the class that is measured here, with room for float itself.

    Else every file of float's size would be refused for that alone.
    """
    shipped = load_profile(CLASS)
    budget = shipped.budget.model_copy(update=ROOM)
    return shipped.model_copy(update={"budget": budget})


def _spoilt_files(task: Task, folder: Path) -> Iterator[tuple[str, Path]]:
    for way in WAYS:
        file = folder / f"{way}.onnx"
        spoilt(way, task.model, file)
        yield f"float, {way}", file


def _peers_files(
    task: Task, rows: Sequence[Row], limits: Budget
) -> Iterator[tuple[str, Path]]:
    """Yield what peers made of the task that is clearly bad."""
    for row in rows:
        file = peer_file(task, row.by)
        if row.task != task.name or row.by not in PEERS or not file.is_file():
            continue
        slow = row.latency_ratio > CLEARLY_SLOWER * limits.latency
        if row.failure or slow or row.drop > limits.drop + CLEAR_POINTS:
            yield row.by, file
