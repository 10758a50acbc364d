"""Optimize a model: the steps in order, the work shared between classes.

    inspect -> fit the data -> prepare -> float reference, and every recipe built
            -> golden vectors -> every variant measured -> choose, class by class

Two classes that want the same recipe share one candidate: it is built once and measured
once for each number of threads.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize import golden
from quarterdeck_controller.optimize.data import samples as samples_of
from quarterdeck_controller.optimize.data.samples import Data
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.measure.machine import machine_isa
from quarterdeck_controller.optimize.metric.score import classes_of
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.recipe import Kind, Recipe
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.search import record, trial
from quarterdeck_controller.optimize.search.choose import choose
from quarterdeck_controller.optimize.search.record import Context, Reference
from quarterdeck_controller.optimize.search.trial import Ready, Trial, Variant
from quarterdeck_controller.optimize.steps import Measured
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is.

    Attributes:
        sentence: What was just done.
    """

    done: int
    total: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Options:
    """What an optimization may be told.

    Attributes:
        name: Name of the model, for its evaluation record.
        labels: Names of the classes, in the order of the scores.
        seed: Draws the golden vectors.
        recipes: Kinds to try instead of those of the profile.
        bounds: Limits of each step's child process.
        workers: Children at a time.
    """

    name: str = "model"
    labels: tuple[str, ...] = ()
    seed: int = 0
    recipes: tuple[Kind, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    workers: int = min(2, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Optimization:
    """What came out for one class.

    Attributes:
        evaluation: The record, with the decision and its reason.
        model: The variant's file: the chosen one or, when refused, the nearest miss;
            None when no candidate could be made.
        golden: The file of golden vectors.
    """

    profile: Profile
    evaluation: Evaluation
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
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Optimization:
    """Return the best variant of ``model`` for one device class, or a refusal.

    Raises:
        RejectedError: ``MODEL_INVALID`` or ``DATA_INVALID`` when there is nothing to
            optimize. A missed budget is not an error: see ``Optimization.accepted``.
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
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[Optimization, ...]:
    """Return one optimization per profile, in their order; shared work is done once.

    Raises:
        RejectedError: As ``optimize``.
    """
    _check_options(options, profiles)
    keys = _keys(profiles, options)
    counter = _Counter(3 + len(_recipes_of(keys)) + len(keys), on_progress)
    try:
        with tempfile.TemporaryDirectory(prefix="quarterdeck-") as folder:
            sandbox = Sandbox(Path(folder) / "steps", options.bounds)
            try:
                ready = _get_ready(sandbox, Path(folder), model, data, counter)
                return _try_all(_Run(sandbox, ready, options, profiles, counter))
            finally:
                sandbox.close()
    except OSError as error:
        raise RejectedError(
            disk_code(error),
            f"the work folder in {tempfile.gettempdir()} failed: {error.strerror}; "
            "set TMPDIR to another disk",
        ) from error


def _get_ready(
    sandbox: Sandbox, folder: Path, model: Path, data: Data, counter: "_Counter"
) -> Ready:
    source = trial.inspect(sandbox, model)
    counter.say(f"{model.name}: {source.parameters:,} parameters")
    ready = trial.get_ready(sandbox, folder, model, source, data)
    counter.say("prepared; still equal to the original")
    return ready


Key = tuple[Recipe, int]
"""A candidate is a recipe, run with a number of threads."""


@dataclass(frozen=True, slots=True)
class _Run:
    sandbox: Sandbox
    ready: Ready
    options: Options
    profiles: Sequence[Profile]
    counter: "_Counter"


def _try_all(run: _Run) -> tuple[Optimization, ...]:
    keys = _keys(run.profiles, run.options)
    pool = ThreadPoolExecutor(run.options.workers)
    try:
        scores = pool.submit(trial.run_float, run.sandbox, run.ready)
        builds = {
            recipe: pool.submit(trial.build, run.sandbox, run.ready, recipe)
            for recipe in _recipes_of(keys)
        }
        run.counter.watch({scores: "float measured"})
        reference = _reference(run, *scores.result())
        run.counter.watch(_told(builds, "built"))
        variants = {recipe: future.result() for recipe, future in builds.items()}
        trials = _run_variants(run, pool, reference, variants, keys)
    finally:
        run.sandbox.close()
        pool.shutdown(cancel_futures=True)
    return tuple(
        _conclude(run, reference, profile, variants, trials) for profile in run.profiles
    )


def _run_variants(
    run: _Run,
    pool: ThreadPoolExecutor,
    reference: Reference,
    variants: Mapping[Recipe, Variant],
    keys: Sequence[Key],
) -> dict[Key, Trial]:
    rows = tuple(sorted({row for rows in reference.rows.values() for row in rows}))
    futures = {
        (recipe, threads): pool.submit(
            trial.run_variant, run.sandbox, run.ready, variants[recipe], rows, threads
        )
        for recipe, threads in keys
    }
    told = {future: f"{key[0].name} measured" for key, future in futures.items()}
    run.counter.watch(told)
    return {key: future.result() for key, future in futures.items()}


def _reference(run: _Run, scores: Array, measured: Measured) -> Reference:
    evaluation = run.ready.data.evaluation
    classes = classes_of(scores)
    samples_of.check_label_range(evaluation, classes)
    _check_scores(scores, len(evaluation))
    _check_class_names(run.options.labels, classes)
    rows = {
        count: golden.choose_vectors(
            scores, evaluation.labels, count=count, seed=run.options.seed
        )
        for count in {profile.golden.count for profile in run.profiles}
    }
    return Reference(
        scores=scores,
        measured=measured,
        metric=record.metric_of(scores, evaluation.labels),
        rows=MappingProxyType(rows),
    )


def _conclude(
    run: _Run,
    reference: Reference,
    profile: Profile,
    variants: Mapping[Recipe, Variant],
    trials: Mapping[Key, Trial],
) -> Optimization:
    ready = run.ready
    tried = [
        trials[recipe, profile.threads]
        for recipe in profile.recipes(run.options.recipes)
    ]
    candidates = [record.candidate(ready, reference, one, profile) for one in tried]
    choice = choose(candidates, profile)
    taken = variants[choice.candidate.recipe] if choice.candidate else None
    model = taken.path.read_bytes() if taken else None
    vectors = _golden_of(ready, reference, profile)
    evaluation = record.write_record(
        ready,
        reference,
        profile,
        choice,
        candidates,
        context=_context(run.options),
        notes=ready.notes + (taken.notes if taken else ()),
        files=_digests(model, vectors),
    )
    return Optimization(profile, evaluation, model, vectors)


def _golden_of(ready: trial.Ready, reference: Reference, profile: Profile) -> bytes:
    rows = np.array(reference.rows[profile.golden.count])
    inputs = samples_of.pick(ready.data.evaluation, rows).inputs
    return golden.encode(inputs, ready.source.score_output, reference.scores[rows])


def _digests(model: bytes | None, vectors: bytes) -> dict[str, str]:
    if model is None:
        return {}
    files = {"model.onnx": model, "golden.npz": vectors}
    return {name: sha256(data).hexdigest() for name, data in files.items()}


def _context(options: Options) -> Context:
    return Context(
        name=options.name,
        labels=options.labels,
        seed=options.seed,
        versions={name: version(name) for name in ("numpy", "onnx", "onnxruntime")},
        isa=machine_isa(),
    )


def _keys(profiles: Sequence[Profile], options: Options) -> tuple[Key, ...]:
    pairs = [
        (recipe, profile.threads)
        for profile in profiles
        for recipe in profile.recipes(options.recipes)
    ]
    return tuple(dict.fromkeys(pairs))


def _recipes_of(keys: Sequence[Key]) -> tuple[Recipe, ...]:
    return tuple(dict.fromkeys(recipe for recipe, _ in keys))


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


def _check_scores(scores: Array, count: int) -> None:
    if scores.ndim == 0 or len(scores) != count:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"{count} samples gave scores of shape {list(scores.shape)}; the first "
            "dimension must be the samples",
        )
    bad = np.flatnonzero(~np.isfinite(scores.reshape(count, -1)).all(axis=1))
    if len(bad):
        raise RejectedError(
            Code.MODEL_INVALID,
            f"the float model gives NaN or infinity for {len(bad)} of {count} "
            f"samples, the first is {bad[0]}",
        )


def _check_class_names(names: tuple[str, ...], classes: int | None) -> None:
    if names and len(names) != classes:
        raise RejectedError(
            Code.DATA_INVALID,
            f"{len(names)} labels are named, the model has {classes or 'no'} classes",
        )


class _Counter:
    """Counts finished steps and reports each, always from the caller's thread."""

    def __init__(self, total: int, report: Callable[[Progress], None]) -> None:
        self._total = total
        self._done = 0
        self._report = report

    def say(self, sentence: str) -> None:
        self._done += 1
        self._report(Progress(self._done, self._total, sentence))

    def watch(self, told: "Mapping[Future[Any], str]") -> None:
        """Report each future as it ends; raise what the first failing one raised."""
        for future in as_completed(told):
            future.result()
            self.say(told[future])


def _told(
    futures: "Mapping[Recipe, Future[Variant]]", verb: str
) -> "dict[Future[Any], str]":
    return {future: f"{recipe.name} {verb}" for recipe, future in futures.items()}
