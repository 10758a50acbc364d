"""What a worker tells its agent: the evidence that decisions are made on."""

from dataclasses import dataclass, field

from pydantic import Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.wire import Wire


class Loaded(Wire):
    """The model is loaded.

    Attributes:
        rss_mb: Resident memory of the worker, MiB.
    """

    load_ms: float = Field(ge=0)
    rss_mb: int = Field(ge=0)


class GoldenReport(Wire):
    """What replaying the golden vectors showed, one at a time.

    Attributes:
        count: Vectors replayed.
        clear: Vectors whose expected margin is clear; ``agreed`` of them had the
            expected top class.
        error: Root-mean-square difference to the expected scores, as a share of
            the expected scores' own root-mean-square.
        p50_ms: Latency of one inference; the percentiles are of the best round.
    """

    count: int = Field(ge=0)
    clear: int = Field(ge=0)
    agreed: int = Field(ge=0)
    error: float
    p50_ms: float = Field(ge=0)
    p90_ms: float = Field(ge=0)
    p99_ms: float = Field(ge=0)
    rss_mb: int = Field(ge=0)
    load_ms: float = Field(default=0, ge=0)


class Answer(Wire):
    """One inference.

    Attributes:
        top: The class with the best score.
        score: That score as a probability: as it is when the scores are
            probabilities, else after softmax.
        latency_ns: Of the inference alone.
    """

    top: int = Field(ge=0)
    score: float
    latency_ns: int = Field(ge=0)
    rss_mb: int = Field(ge=0)


@dataclass(frozen=True, slots=True)
class Tally:
    """What one model did on live requests since it took over.

    Attributes:
        errors: Requests that failed for a reason that lies with the model.
        crashes: Times its worker died; ``hangs`` of them because it stopped
            answering and was ended, ``bloats`` because it grew past its memory.
        last: Why it died last; ``cause`` tells more.
    """

    requests: int = 0
    errors: int = 0
    crashes: int = 0
    hangs: int = 0
    bloats: int = 0
    last: Code | None = None
    cause: str = ""
    latency: Sketch = field(default_factory=Sketch)

    @property
    def p90_ms(self) -> float | None:
        """The 90th percentile of the latency, or None before the first answer."""
        value = self.latency.quantile(0.9)
        return None if value is None else value / 1e6
