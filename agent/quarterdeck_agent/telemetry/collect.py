"""Counts what the models do into windows, one a period and artifact."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from quarterdeck_agent.evidence import Answer, GoldenReport
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import CONFIDENCE_BINS, Window

PREFIX = 16
"""Hex digits of the artifact's digest that a window carries."""


@dataclass(slots=True)
class _Counts:
    """A window while it is open."""

    started: datetime
    began: float
    requests: int = 0
    errors: int = 0
    dropped: int = 0
    latency: Sketch = field(default_factory=Sketch)
    confidence: list[int] = field(default_factory=lambda: [0] * CONFIDENCE_BINS)
    classes: Counter[int] = field(default_factory=Counter)
    golden_total: int = 0
    golden_ok: int = 0
    label_total: int = 0
    label_ok: int = 0
    rss_mb: int = 0
    restarts: int = 0


class Collector:
    """Counts into one open window for each artifact and hands closed ones to ``keep``.

    A closed window is final: its number is not used again in this boot.
    """

    def __init__(self, boot: int, clock: Clock, keep: Callable[[Window], None]) -> None:
        self._boot = boot
        self._clock = clock
        self._keep = keep
        self._sequence = 0
        self._active: str | None = None
        self._open: dict[str, _Counts] = {}
        self._totals: Counter[str] = Counter()

    @property
    def totals(self) -> dict[str, int]:
        """What was counted since the start, for people."""
        return dict(self._totals)

    def answered(self, artifact: str, answer: Answer, label: int | None) -> None:
        """Count an inference."""
        counts = self._counts(artifact)
        counts.requests += 1
        counts.latency.add(answer.latency_ns)
        share = min(CONFIDENCE_BINS - 1, max(0, int(answer.score * CONFIDENCE_BINS)))
        counts.confidence[share] += 1
        counts.classes[answer.top] += 1
        counts.rss_mb = max(counts.rss_mb, answer.rss_mb)
        self._totals["requests"] += 1
        if label is not None:
            right = label == answer.top
            counts.label_total += 1
            counts.label_ok += right
            self._totals["labelled"] += 1
            self._totals["right"] += right

    def failed(self, artifact: str | None) -> None:
        """Count a request that got no answer."""
        self._totals["errors"] += 1
        artifact = artifact or self._active
        if artifact is not None:
            counts = self._counts(artifact)
            counts.requests += 1
            counts.errors += 1

    def dropped(self) -> None:
        """Count a request that was turned away."""
        self._totals["dropped"] += 1
        if self._active is not None:
            self._counts(self._active).dropped += 1

    def proved(self, artifact: str, report: GoldenReport) -> None:
        """Count a replay of the golden vectors: those of a clear margin."""
        counts = self._counts(artifact)
        counts.golden_total += report.clear
        counts.golden_ok += min(report.agreed, report.clear)
        counts.rss_mb = max(counts.rss_mb, report.rss_mb)

    def restarted(self, artifact: str) -> None:
        """Count a worker that had to be started again."""
        self._totals["restarts"] += 1
        self._counts(artifact).restarts += 1

    def swapped(self, artifact: str | None) -> None:
        """Close what is open, so that no window mixes two models."""
        self.close()
        self._active = artifact

    def close(self) -> None:
        """Close every open window in which something was counted."""
        counted, self._open = self._open, {}
        for artifact, counts in counted.items():
            self._sequence += 1
            self._keep(self._window(artifact, counts))

    def _counts(self, artifact: str) -> _Counts:
        counts = self._open.get(artifact)
        if counts is None:
            counts = _Counts(self._clock.now(), self._clock.monotonic())
            self._open[artifact] = counts
        return counts

    def _window(self, artifact: str, counts: _Counts) -> Window:
        seconds = self._clock.monotonic() - counts.began
        return Window(
            boot=self._boot,
            sequence=self._sequence,
            artifact=artifact[:PREFIX],
            started=counts.started,
            duration=timedelta(seconds=seconds),
            requests=counts.requests,
            errors=counts.errors,
            dropped=counts.dropped,
            latency=counts.latency,
            confidence=tuple(counts.confidence),
            classes=MappingProxyType(dict(counts.classes)),
            golden_total=counts.golden_total,
            golden_ok=counts.golden_ok,
            label_total=counts.label_total,
            label_ok=counts.label_ok,
            rss_mb=counts.rss_mb,
            restarts=counts.restarts,
        )
