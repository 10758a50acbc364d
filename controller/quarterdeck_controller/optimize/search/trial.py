"""Make one candidate for one class and see what it is worth.

    repair -> calibrate -> build (-> train -> finish)
           -> score -> golden vectors -> measure -> audit

Every step is remembered by what went in, so classes that want the same share it.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize import golden, steps
from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.evaluation import Kernels, Latency
from quarterdeck_controller.optimize.measure.known import Known, default_folder
from quarterdeck_controller.optimize.measure.latency import (
    Brought,
    First,
    Here,
    Question,
    Told,
)
from quarterdeck_controller.optimize.measure.machine import machine_isa
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.recipe import GRAPH_REPAIRS, Recipe
from quarterdeck_controller.optimize.search import ready as at
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures
from quarterdeck_controller.optimize.search.ready import Ready
from quarterdeck_controller.optimize.search.story import Rung
from quarterdeck_controller.optimize.search.vectors import Vectors
from quarterdeck_controller.optimize.search.workbench import Made, Workbench
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Array = NDArray[Any]

TRAINING_S = 300.0
MOST_TRAINING_S = 900.0
TRAINING_PARAMETERS = 500_000
"""Up to so many parameters the training takes ``TRAINING_S``, past it in proportion."""
TRAINING_ROOM_S = 240.0
"""What training may take beside the training itself: checks, and the last judgement."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe's file.

    Attributes:
        treated: How many operators got which treatment.
        trained: What training did, where the recipe asks for it.
    """

    recipe: Recipe
    path: Path
    treated: tuple[tuple[str, int], ...]
    notes: tuple[str, ...] = ()
    trained: steps.Trained | None = None


@dataclass(frozen=True, slots=True)
class Trials:
    """Tries recipes for one class."""

    bench: Workbench
    ready: Ready
    profile: Profile

    @property
    def vectors(self) -> Vectors:
        """The class's golden vectors."""
        return self.ready.vectors[self.profile.golden.count]

    def attempt(self, recipe: Recipe, rung: Rung, why: str) -> Candidate:
        """Return the candidate that ``recipe`` makes, or why it makes none."""
        try:
            figures = self._figures(self.variant(recipe))
        except RejectedError as error:
            return Candidate(recipe, rung, why, None, error.detail)
        return Candidate(recipe, rung, why, figures)

    def variant(self, recipe: Recipe) -> Variant:
        """Return the file that ``recipe`` makes.

        Raises:
            RejectedError: ``MODEL_INVALID`` when it makes none.
        """
        if recipe.trained:
            return self._train(recipe)
        made = self._build(recipe, names=False)
        notes = (*self._graph_notes(recipe), *made.answer.notes)
        return Variant(recipe, made.path, _counts(made.answer), notes)

    def spreads(self, recipe: Recipe) -> Path:
        """Return the file of what calibration saw in the graph of ``recipe``.

        Raises:
            RejectedError: ``MODEL_INVALID`` when the graph does not run.
        """
        return self._spreads(self._graph(recipe))

    def sense(self, recipe: Recipe) -> steps.Sensed:
        """Return what each operator's treatment alone costs.

        Raises:
            RejectedError: ``MODEL_INVALID`` when that cannot be found.
        """
        graph = self._graph(recipe)
        return self.bench.make(
            "sense",
            lambda _: steps.SenseRequest(
                model=graph,
                spreads=self._spreads(graph),
                recipe=_without_repairs(recipe),
                samples=self.ready.calibration.folder,
                output=self.ready.source.score_output,
                batch=self.ready.batch,
                operators=self.profile.support.operators,
            ),
            steps.Sensed,
        ).answer

    def scored(
        self, variant: Variant, rows: tuple[int, ...], reference: Path
    ) -> steps.Scored:
        """Return how good a variant is on evaluation samples, and how these are spread.

        Args:
            variant: What is judged.
            rows: Which samples.
            reference: The float model's outputs for the same.

        Raises:
            RejectedError: ``MODEL_INVALID`` when it does not run.
        """
        return self._score(variant, rows, reference, baselines=True).answer

    def selected(self, variant: Variant) -> tuple[steps.Scored, golden.Compared]:
        """Return how good a variant is on the samples that choose, and on the vectors.

        Raises:
            RejectedError: ``MODEL_INVALID`` when it does not run.
        """
        made = self._score(
            variant,
            self.ready.split.selection,
            self.ready.outputs,
            vectors=self.vectors.rows,
        )
        return made.answer, self.compared(made.path / steps.GOLDEN)

    def _score(
        self,
        variant: Variant,
        rows: tuple[int, ...],
        reference: Path,
        *,
        baselines: bool = False,
        vectors: tuple[int, ...] = (),
    ) -> Made[steps.Scored]:
        batch = 1 if variant.recipe.depends_on_batch else self.ready.batch
        return at.score(
            self.bench,
            self.ready.task,
            self.ready.source.score_output,
            variant.path,
            self.ready.evaluation,
            rows=rows,
            batch=batch,
            session=self.profile.session,
            reference=reference,
            baselines=baselines,
            vectors=vectors,
        )

    def compared(self, folder: Path) -> golden.Compared:
        """Return how closely stored outputs reproduce the golden vectors."""
        outputs = Stored.open(folder)
        output = self.ready.source.score_output
        name = output if output in outputs.names else outputs.names[0]
        expected = self.vectors.expected
        got = list(outputs.samples(name))
        if any(one.shape != expected.shape[1:] for one in got):
            raise RejectedError(
                Code.MODEL_INVALID,
                f"its scores have shape {list(got[0].shape)}, float's have "
                f"{list(expected.shape[1:])}",
            )
        return golden.compare(expected, np.stack(got), self.vectors.scale)

    def measured(self, path: Path) -> Told:
        """Return what one inference of the model at ``path`` costs, beside float.

        What devices of the class measured goes before what this machine does.

        Raises:
            RejectedError: ``MODEL_INVALID`` when it does not run.
        """
        question = Question(
            variant=path,
            variant_sha256=sha256(path.read_bytes()).hexdigest(),
            reference=self.ready.model,
            float_sha256=self.ready.source.sha256,
            samples=self.ready.evaluation.folder,
            profile=self.profile,
        )
        here = Here(self._measure, machine_isa())
        told = First((Brought(Known(default_folder())), here)).measure(question)
        assert not isinstance(told, str), "this machine always answers"
        return told

    def measured_float(self) -> steps.Measured:
        """Return what one inference of the float model costs.

        Raises:
            RejectedError: ``MODEL_INVALID`` when it does not run.
        """
        return self._measure(
            steps.MeasureRequest(
                model=self.ready.model,
                reference=None,
                samples=self.ready.evaluation.folder,
                session=self.profile.session,
            )
        )

    def _measure(self, request: steps.MeasureRequest) -> steps.Measured:
        asked = request.model_copy(update={"audit": True})
        return self.bench.make("measure", lambda _: asked, steps.Measured).answer

    def audited(self, path: Path) -> steps.Audit:
        """Return which kernels the model at ``path`` runs here.

        Raises:
            RejectedError: ``MODEL_INVALID`` when it does not run.
        """
        reference = None if path == self.ready.model else self.ready.model
        found = self._measure(
            steps.MeasureRequest(
                model=path,
                reference=reference,
                samples=self.ready.evaluation.folder,
                session=self.profile.session,
            )
        ).audit
        assert found is not None, "every measurement here asks for it"
        return found

    def _figures(self, variant: Variant) -> Figures:
        ready, path = self.ready, variant.path
        scored, compared = self.selected(variant)
        reference = self.measured_float()
        told, audit = self.measured(path), self.audited(path)
        measured = told.measured
        assert measured.reference_times, "variants are measured beside float"
        assert measured.ratio is not None
        return Figures(
            metric=scored.metric,
            unit=scored.unit,
            labelled=scored.labelled,
            samples=scored.samples,
            score=scored.score,
            reference_score=ready.scored.score,
            drop_points=scored.drop_points,
            agreement=scored.agreement,
            bytes=path.stat().st_size,
            reference_bytes=ready.source.bytes,
            latency=Latency(**measured.times.model_dump()),
            reference_latency=Latency(**measured.reference_times.model_dump()),
            latency_ratio=measured.ratio,
            latency_known=told.known,
            peak_memory_mb=measured.peak_memory_mb,
            reference_peak_memory_mb=reference.peak_memory_mb,
            load_ms=measured.load_ms,
            golden_agreement=compared.agreement,
            golden_clear=compared.clear,
            golden_error=compared.error,
            kernels=kernels_of(audit),
            treated=variant.treated,
        )

    def _graph(self, recipe: Recipe) -> Path:
        """Return the prepared graph after the recipe's graph repairs."""
        made = self._repaired(recipe)
        return self.ready.prepared if made is None else made[1]

    def _graph_notes(self, recipe: Recipe) -> tuple[str, ...]:
        made = self._repaired(recipe)
        return () if made is None else made[0].notes

    def _repaired(self, recipe: Recipe) -> tuple[steps.Repaired, Path] | None:
        repairs = tuple(one for one in recipe.repairs if one in GRAPH_REPAIRS)
        if not repairs:
            return None
        made = self.bench.make(
            "repair",
            lambda out: steps.RepairRequest(
                model=self.ready.prepared,
                out=out,
                repairs=repairs,
                samples=self.ready.calibration.folder,
                batch=self.ready.batch,
            ),
            steps.Repaired,
            out="repaired.onnx",
        )
        if not made.answer.changed:
            told = f"{', '.join(repairs)} finds nothing to mend in this model"
            raise RejectedError(Code.MODEL_INVALID, told)
        return made.answer, made.path

    def _spreads(self, graph: Path) -> Path:
        return self.bench.make(
            "calibrate",
            lambda out: steps.CalibrateRequest(
                model=graph,
                out=out,
                samples=self.ready.calibration.folder,
                batch=self.ready.batch,
            ),
            steps.Calibrated,
            out="spreads.npz",
        ).path

    def _build(self, recipe: Recipe, *, names: bool) -> Made[steps.Built]:
        graph = self._graph(recipe)
        spreads = self._spreads(graph)
        support = self.profile.support
        return self.bench.make(
            "build",
            lambda out: steps.BuildRequest(
                model=graph,
                out=out,
                recipe=recipe,
                spreads=spreads,
                samples=self.ready.calibration.folder,
                output=self.ready.source.score_output,
                batch=self.ready.batch,
                operators=support.operators,
                fold=support.fold,
                names=names,
                precise=self.profile.session.precise,
            ),
            steps.Built,
            out="model.onnx",
        )

    def _train(self, recipe: Recipe) -> Variant:
        untrained = replace(recipe, trained=False)
        start = self._build(untrained, names=True)
        times = max(1.0, self.ready.source.parameters / TRAINING_PARAMETERS)
        seconds = min(MOST_TRAINING_S, TRAINING_S * times)
        trained = self.bench.make(
            "train",
            lambda out: steps.TrainRequest(
                model=start.path,
                reference=self._graph(untrained),
                out=out,
                samples=self.ready.calibration.folder,
                output=self.ready.source.score_output,
                batch=self.ready.batch,
                labels=self._classes_to_learn(),
                seed=self.ready.task.seed,
                seconds=seconds,
            ),
            steps.Trained,
            out="model.onnx",
            seconds=seconds + TRAINING_ROOM_S,
        )
        finished = self.bench.make(
            "finish",
            lambda out: steps.FinishRequest(
                model=trained.path,
                out=out,
                output=self.ready.source.score_output,
                precise=self.profile.session.precise,
            ),
            steps.Finished,
            out="model.onnx",
        )
        answer = trained.answer
        return Variant(
            recipe,
            finished.path,
            _counts(start.answer),
            (*start.answer.notes, *answer.left_out, *answer.notes),
            answer,
        )

    def _classes_to_learn(self) -> Path | None:
        labels = self.ready.calibration.read(
            at.LABELS, there=self.ready.calibration.loaded.labels
        )
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            return None
        return self.ready.calibration.labels


def kernels_of(audit: steps.Audit) -> Kernels:
    """Return the audit as the records carry it."""
    return Kernels(
        integer=audit.integer,
        heavy_float=audit.heavy_float,
        conversions=audit.conversions,
        conversion_share=audit.conversion_share,
    )


def _counts(built: steps.Built) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(built.treated.items()))


def _without_repairs(recipe: Recipe) -> Recipe:
    return replace(recipe, repairs=(), overrides=(), trained=False)
