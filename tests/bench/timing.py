"""How spans are taken: in turns with the comparator, and summed up by the median."""

import time
from collections.abc import Callable, Sequence
from statistics import median

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Return how long ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(rounds: int, *works: Work) -> list[float]:
    """Return each work's median seconds; they take turns, so all see one machine."""
    spans = [[seconds(work) for work in works] for _ in range(rounds)]
    return [median(column) for column in zip(*spans, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * share // 1) - 1))]
