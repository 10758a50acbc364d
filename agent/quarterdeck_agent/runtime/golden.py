"""Replaying golden vectors, and fitting samples: the arithmetic inside the worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quarterdeck_agent.evidence import GoldenReport
from quarterdeck_agent.runtime.tensors import Tensor, Tensors
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden

Run = Callable[[Tensors], list[Tensor]]

WARM_UP = 3
ROUNDS = 3
"""Rounds are measured and the best one counts: a limit is about the model on this
device, not about what else the device did in one round."""
MIN_RUNS = 30
MEASURE_S = 6.0
INPUT, EXPECTED = "input:", "expected:"
PROBABILITY_TOLERANCE = 0.02
_UNUSABLE = 1e9
_BATCHED = 2
"""From this rank on, the first dimension is the batch."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the model: dimensions that may vary are None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]


def fit(tensors: Tensors, inputs: tuple[Input, ...]) -> Tensors:
    """Return one sample as the model's inputs, with a batch dimension of one.

    Raises:
        RejectedError: ``DATA_INVALID`` with what is there and what is expected.
    """
    if set(tensors) == {""} and len(inputs) == 1:
        tensors = {inputs[0].name: tensors[""]}
    named = {name.removeprefix(INPUT): tensor for name, tensor in tensors.items()}
    lacking = [i.name for i in inputs if i.name not in named]
    if lacking:
        raise RejectedError(
            Code.DATA_INVALID,
            f"the model takes {lacking}, the request holds {sorted(named)}",
        )
    return {i.name: _fit(named[i.name], i) for i in inputs}


def _fit(tensor: Tensor, wanted: Input) -> Tensor:
    if tensor.ndim == len(wanted.shape) - 1:
        tensor = tensor[np.newaxis]
    fixed = zip(tensor.shape, wanted.shape, strict=False)
    same = tensor.ndim == len(wanted.shape) and all(w in (None, h) for h, w in fixed)
    # a first dimension that is free or 1 is the batch; a fixed one is the model's own
    batched = tensor.ndim >= _BATCHED and wanted.shape[0] in (None, 1)
    same = same and (not batched or tensor.shape[0] == 1)
    if not same or not np.can_cast(tensor.dtype, wanted.dtype, "same_kind"):
        shape = "x".join("?" if d is None else str(d) for d in wanted.shape)
        raise RejectedError(
            Code.DATA_INVALID,
            f"input {wanted.name} is {wanted.dtype} {shape}, the request holds "
            f"{tensor.dtype} {'x'.join(map(str, tensor.shape))}",
        )
    return np.asarray(tensor, dtype=wanted.dtype, order="C")


def top(scores: Tensor) -> tuple[int, float]:
    """Return the best class and its probability.

    Scores that are none yet (not within 0 to 1, or not of sum one) pass a softmax.
    """
    flat = np.asarray(scores, dtype=np.float64).reshape(-1)
    if not flat.size or not np.isfinite(flat).all():
        raise RejectedError(Code.PROBATION_FAILED, "the scores are not finite numbers")
    best = int(flat.argmax())
    sums_to_one = abs(float(flat.sum()) - 1) <= PROBABILITY_TOLERANCE
    if flat.min() < 0 or flat.max() > 1 or not sums_to_one:
        flat = np.exp(flat - flat.max())
        flat /= flat.sum()
    return best, float(flat[best])


def replay(
    tensors: Tensors, golden: Golden, inputs: tuple[Input, ...], run: Run, rss_mb: int
) -> GoldenReport:
    """Return what replaying the vectors showed, each at batch one.

    Raises:
        RejectedError: ``GOLDEN_FAILED`` when the file does not fit the model.
    """
    vectors, expected = _vectors(tensors, inputs)
    got = [_scores(run(vector)) for vector in vectors]
    if any(scores.shape != expected[0].shape for scores in got):
        raise RejectedError(
            Code.GOLDEN_FAILED,
            f"the model gives {got[0].size} scores, {expected[0].size} are expected",
        )
    clear, agreed = _agreement(got, expected, golden.margin)
    p50, p90, p99 = _latency(vectors, run)
    return GoldenReport(
        count=len(vectors),
        clear=clear,
        agreed=agreed,
        error=_error(np.stack(got), np.stack(expected)),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        rss_mb=rss_mb,
    )


def _vectors(
    tensors: Tensors, inputs: tuple[Input, ...]
) -> tuple[list[Tensors], list[NDArray[np.float64]]]:
    asked = {n: t for n, t in tensors.items() if n.startswith(INPUT)}
    answers = [t for n, t in tensors.items() if n.startswith(EXPECTED)]
    counts = {len(t) if t.ndim else 0 for t in (*asked.values(), *answers)}
    if not asked or not answers or len(counts) != 1 or counts == {0}:
        raise RejectedError(
            Code.GOLDEN_FAILED, f"golden.npz holds {sorted(tensors)}, not vectors"
        )
    samples = [
        fit({n: np.asarray(t[at]) for n, t in asked.items()}, inputs)
        for at in range(counts.pop())
    ]
    return samples, [_scores([row]) for row in answers[0]]


def _scores(outputs: list[Tensor]) -> NDArray[np.float64]:
    return np.asarray(outputs[0], dtype=np.float64).reshape(-1)


def _agreement(
    got: list[NDArray[np.float64]], expected: list[NDArray[np.float64]], margin: float
) -> tuple[int, int]:
    clear = agreed = 0
    for mine, theirs in zip(got, expected, strict=True):
        ranked = np.sort(theirs)
        if theirs.size > 1 and ranked[-1] - ranked[-2] < margin:
            continue
        clear += 1
        agreed += int(mine.argmax() == theirs.argmax() and np.isfinite(mine).all())
    return clear, agreed


def _error(got: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    reference = float(np.sqrt(np.mean(expected**2))) or 1.0
    error = float(np.sqrt(np.mean((got - expected) ** 2))) / reference
    return error if np.isfinite(error) else _UNUSABLE


def _latency(vectors: list[Tensors], run: Run) -> tuple[float, float, float]:
    """Return the 50th, 90th and 99th percentile of the best round, milliseconds."""
    for vector in vectors[:WARM_UP]:
        run(vector)
    ends = time.perf_counter() + MEASURE_S
    rounds: list[tuple[float, float, float]] = []
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() < ends):
        times = [
            _timed(run, vectors[n % len(vectors)])
            for n in range(max(MIN_RUNS, len(vectors)))
        ]
        p50, p90, p99 = (float(q) for q in np.quantile(times, (0.5, 0.9, 0.99)))
        rounds.append((p50, p90, p99))
    return min(rounds, key=lambda quantiles: quantiles[1])


def _timed(run: Run, vector: Tensors) -> float:
    before = time.perf_counter_ns()
    run(vector)
    return (time.perf_counter_ns() - before) / 1e6
