"""Hold the best candidates against samples and processors that did not choose them.

The best of many looks better on the samples it was chosen on than it is. So the verdict
comes from the test samples, and from emulated processors of the class where there are
any. A candidate that fails is followed by the best of those closer to float than it, at
most ``LOOKS`` times: each look at the test samples makes them a little less unseen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.evaluation import GoldenMeasured
from quarterdeck_controller.optimize.measure.emulate import Emulator, find_emulator
from quarterdeck_controller.optimize.measure.fidelity import (
    HERE,
    is_faithful,
    loses_db,
    measured,
)
from quarterdeck_controller.optimize.search import ready as at
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures
from quarterdeck_controller.optimize.search.choose import (
    fits,
    misses,
    nearest,
    next_to_confirm,
)
from quarterdeck_controller.optimize.search.trial import Trials, Variant

LOOKS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a class.

    Attributes:
        candidate: The one taken, or the nearest miss when refused.
        scored: Of the candidate on the test samples.
        reference: Of the float model on the same.
        fitted: Whether it met the budget on the samples that chose it.
        processors: How it reproduced the golden vectors, here first.
        broken: Why it was refused though it met the budget on the selection samples.
        looks: How many candidates were held against the test samples.
    """

    accepted: bool
    fitted: bool
    candidate: Candidate
    variant: Variant
    scored: steps.Scored
    reference: steps.Scored
    processors: tuple[GoldenMeasured, ...]
    broken: tuple[str, ...]
    looks: int
    notes: tuple[str, ...]


def confirm(
    trials: Trials, candidates: Sequence[Candidate], tell: Callable[[str, str], None]
) -> Verdict | None:
    """Return the verdict on the best candidate that holds; None when none runs.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the float model does not run.
    """
    failed: list[Candidate] = []
    broken: list[str] = []
    verdict: Verdict | None = None
    for look in range(1, LOOKS + 1):
        chosen = next_to_confirm(candidates, failed, trials.profile, last=look == LOOKS)
        if chosen is None:
            break
        tell("confirm", f"{chosen.recipe.name} on samples that did not choose it")
        verdict = _look(trials, chosen, look)
        if verdict.accepted:
            return replace(verdict, broken=tuple(broken))
        broken += verdict.broken
        failed.append(chosen)
    if verdict is not None:
        return replace(verdict, broken=tuple(broken))
    miss = nearest(candidates, trials.profile)
    return None if miss is None else _look(trials, miss, 1)


def _look(trials: Trials, candidate: Candidate, look: int) -> Verdict:
    ready = trials.ready
    variant = trials.variant(candidate.recipe)
    rows = ready.split.test
    outputs = at.run(
        trials.bench, ready.model, ready.evaluation, rows, batch=ready.batch
    )
    reference = at.score(
        trials.bench,
        ready.task,
        ready.source.score_output,
        ready.model,
        ready.evaluation,
        rows=rows,
        batch=ready.batch,
    ).answer
    scored = trials.scored(variant, rows, outputs)
    figures = _on_test(candidate, scored, reference)
    told = [miss.sentence for miss in misses(figures, trials.profile)]
    here = measured(HERE, trials.selected(variant)[1])
    there, notes = _elsewhere(trials, variant.path)
    told += _unfaithful(here, there, trials)
    return Verdict(
        accepted=not told,
        fitted=fits(candidate, trials.profile),
        candidate=replace(candidate, figures=figures),
        variant=variant,
        scored=scored,
        reference=reference,
        processors=(here, *there),
        broken=tuple(f"{candidate.recipe.name}: {sentence}" for sentence in told),
        looks=look,
        notes=notes,
    )


def _on_test(
    candidate: Candidate, scored: steps.Scored, reference: steps.Scored
) -> Figures:
    assert candidate.figures is not None, "only measured candidates are confirmed"
    return replace(
        candidate.figures,
        samples=scored.samples,
        score=scored.score,
        reference_score=reference.score,
        drop_points=scored.drop_points,
        agreement=scored.agreement,
    )


def _elsewhere(
    trials: Trials, model: Path
) -> tuple[tuple[GoldenMeasured, ...], tuple[str, ...]]:
    """Return how the model answers on an emulated processor of the class."""
    processor = trials.profile.known.emulate
    if not processor:
        return (), ()
    emulator = find_emulator(processor)
    if isinstance(emulator, str):
        told = f"its numbers on {processor} are not proved here: {emulator}"
        return (), (told,)
    compared = trials.compared(_emulated(trials, emulator, model))
    return (measured(processor, compared),), ()


def _emulated(trials: Trials, emulator: Emulator, model: Path) -> Path:
    return trials.bench.make(
        "emulate",
        lambda out: steps.EmulateRequest(
            model=model,
            out=out,
            samples=trials.ready.evaluation.folder,
            session=trials.profile.session,
            rows=trials.vectors.rows,
            processor=emulator.processor,
            runtime=emulator.runtime,
        ),
        steps.Ran,
    ).path


def _unfaithful(
    here: GoldenMeasured, there: Sequence[GoldenMeasured], trials: Trials
) -> list[str]:
    policy = trials.profile.golden
    return [
        f"on {one.processor} its answers are {loses_db(here, one):.1f} dB further from "
        f"float than here ({one.sqnr_db:.1f} against {here.sqnr_db:.1f} dB)"
        for one in there
        if not is_faithful(here, one) or one.error > policy.max_error
    ]
