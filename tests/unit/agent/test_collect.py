"""Counting into windows."""

from quarterdeck_agent.evidence import Answer, GoldenReport
from quarterdeck_agent.telemetry.collect import Collector
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.telemetry.window import Window

GOOD = GoldenReport(
    count=32,
    clear=20,
    agreed=20,
    error=0.01,
    p50_ms=1,
    p90_ms=2,
    p99_ms=3,
    rss_mb=10,
)

A, B = "a" * 64, "b" * 64


def collector(kept: list[Window]) -> Collector:
    return Collector(boot=9, clock=SystemClock(), keep=kept.append)


def answer(top: int = 1, score: float = 0.99) -> Answer:
    return Answer(top=top, score=score, latency_ns=1_000_000, rss_mb=80)


def test_a_window_holds_what_was_counted() -> None:
    kept: list[Window] = []
    counting = collector(kept)
    counting.swapped(A)
    counting.answered(A, answer(), label=1)
    counting.answered(A, answer(top=2, score=1.0), label=1)
    counting.answered(A, answer(score=0.0), label=None)
    counting.failed(A)
    counting.dropped()
    counting.restarted(A)

    counting.close()

    (window,) = kept
    assert (window.sequence, window.artifact) == (1, A[:16])
    assert (window.requests, window.errors, window.dropped) == (4, 1, 1)
    assert (window.label_total, window.label_ok) == (2, 1)
    assert dict(window.classes) == {1: 2, 2: 1}
    assert (window.confidence[0], window.confidence[15]) == (1, 2)
    assert window.latency.count == 3
    assert (window.rss_mb, window.restarts) == (80, 1)
    assert Window.decode(window.encode()).requests == 4


def test_no_window_mixes_two_models() -> None:
    kept: list[Window] = []
    counting = collector(kept)
    counting.swapped(A)
    counting.answered(A, answer(), None)
    counting.proved(B, GOOD)
    counting.swapped(B)
    counting.answered(B, answer(), None)
    counting.answered(A, answer(), None)
    counting.close()

    seen = [(w.artifact[0], w.requests, w.golden_ok) for w in kept]
    assert sorted(seen) == [("a", 1, 0), ("a", 1, 0), ("b", 0, 20), ("b", 1, 0)]
    assert [w.sequence for w in kept] == [1, 2, 3, 4]


def test_a_period_without_anything_makes_no_window() -> None:
    kept: list[Window] = []
    counting = collector(kept)
    counting.swapped(A)

    counting.close()

    assert kept == []
