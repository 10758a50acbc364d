"""Put bad variants through the optimizer's gate: every one must be refused.

A bench that gives one file for whatever is built; all that judges is the real thing.
The files are float models spoilt on purpose, and whatever the peers made that loses too
much, is slower than float, or does not run.
"""

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_controller.optimize.profile import Profile, load_profile
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.search import ready as at
from quarterdeck_controller.optimize.search.cache import Cache
from quarterdeck_controller.optimize.search.choose import misses
from quarterdeck_controller.optimize.search.confirm import confirm
from quarterdeck_controller.optimize.search.trial import Trials
from quarterdeck_controller.optimize.search.workbench import A, Made, Workbench
from quarterdeck_controller.optimize.steps import Built, Record, StepName
from tests.bench.quantization.compare import peer_file
from tests.bench.quantization.peers.registry import PEERS
from tests.bench.quantization.row import Row
from tests.bench.quantization.spoil import WAYS, spoilt
from tests.bench.quantization.targets import Budget, Verdict
from tests.bench.quantization.task import Task, prepared
from tests.bench.quantization.tasks.registry import RECIPES

CLASS, ROOM = "gateway-x86-vnni", 1.2
CONTROL = "float itself"
"""Put in as well: a gate that refuses everything proves nothing."""
CLEARLY_SLOWER, CLEAR_POINTS = 1.2, 1.0
"""Past the limits by this, so that another measurement would say the same."""
RECIPE = Recipe("weights")
"""Named for every file that is put in; the recipe is not what is judged."""


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
class Substituting(Workbench):
    """A workbench whose builds all give one file."""

    file: Path = Path()

    def make_by(
        self,
        carry_out: Callable[[Path], A],
        step: StepName,
        request: Record,
        answer: type[A],
        *,
        out: str = "out",
        salt: str = "",
    ) -> Made[A]:
        """Return the file where something is built; see ``Workbench``."""

        def substitute(path: Path) -> A:
            shutil.copy(self.file, path)
            size = path.stat().st_size
            return answer.model_validate({"bytes": size, "treated": {}, "notes": ()})

        if answer is Built:
            salt = hashlib.sha256(self.file.read_bytes()).hexdigest()
            carry_out = substitute
        return Workbench.make_by(
            self, carry_out, step, request, answer, out=out, salt=salt
        )


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
        with _bench(folder) as bench:
            ready = at.get_ready(
                bench,
                folder,
                at.Task(
                    task.model, str(task.calibration), str(task.evaluation), task.metric
                ),
                (profile,),
                lambda *_: None,
            )
            for label, file in files.items():
                bench.file = file
                yield _judged(task.name, label, Trials(bench, ready, profile))


def _judged(task: str, label: str, trials: Trials) -> Judgement:
    candidate = trials.attempt(RECIPE, "floor", "put in on purpose")
    if candidate.figures is None:
        failure = str(candidate.failure)
        return Judgement(task, label, accepted=False, reason=failure)
    verdict = confirm(trials, [candidate], lambda *_: None)
    assert verdict is not None, "a candidate that was measured gets a verdict"
    told = [miss.sentence for miss in misses(candidate.figures, trials.profile)]
    reason = "; ".join(told or verdict.broken)
    return Judgement(task, label, verdict.accepted, reason)


def _profile() -> Profile:
    """Return the class that is measured here, with room for a file of float's size.

    Else every float model would be refused for its size alone.
    """
    shipped = load_profile(CLASS)
    budget = shipped.budget.model_copy(update={"size_ratio": ROOM})
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


@contextmanager
def _bench(folder: Path) -> Iterator[Substituting]:
    sandbox = Sandbox(folder / "steps", Bounds())
    try:
        yield Substituting(sandbox, Cache(folder / "cache"), platform.node())
    finally:
        sandbox.close()
