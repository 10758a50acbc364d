"""What a variant costs on a device of its class: the question and the answer.

The answer is what ``quarterdeck class measure`` writes on a device today and
``quarterdeck class measured`` reads. A controller asks an agent for it by the question,
which is reserved: no agent answers it yet (PROTOCOL.md section 9).
"""

from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.ids import ClassName, Sha256
from quarterdeck_shared.session import Session
from quarterdeck_shared.wire import Wire

MOST_MS = 600_000


class LatencyRequest(Wire):
    """Measure a variant in turns with its float model, both as artifacts at hand.

    Attributes:
        id: Chosen by the asker; the answer carries it back.
        variant: Digest of the variant's artifact.
        reference: Digest of the float model's artifact.
        seconds: Answer within this time.
    """

    v: Literal[1] = 1
    id: str = Field(min_length=1, max_length=64)
    variant: Sha256
    reference: Sha256
    session: Session
    seconds: float = Field(gt=0, le=600)


class Spent(Wire):
    """Latency of one inference at batch 1; ``cpu_ms`` is over all threads."""

    p50_ms: float = Field(gt=0, le=MOST_MS)
    p90_ms: float = Field(gt=0, le=MOST_MS)
    p99_ms: float = Field(gt=0, le=MOST_MS)
    cpu_ms: float = Field(ge=0, le=64 * MOST_MS)


class LatencyReport(Wire):
    """What was measured on one device.

    Attributes:
        device: Its name, where it has one.
        machine: What it is.
        variant_sha256: Of the variant's file.
        float_sha256: Of the float model's file, with the data files it names.
        session: How both were opened.
        ratio: Median latency as a share of float's, pair by pair.
        peak_memory_mb: Of a process that loads and runs the variant, MiB.
        load_ms: From the variant's file to a session that answers.
    """

    v: Literal[1] = 1
    device: str = Field(default="", max_length=64)
    device_class: ClassName
    machine: Capabilities
    measured: AwareDatetime
    variant_sha256: Sha256
    float_sha256: Sha256
    session: Session
    variant: Spent
    reference: Spent
    ratio: float = Field(gt=0, le=1e6)
    peak_memory_mb: float = Field(gt=0, le=1 << 24)
    load_ms: float = Field(ge=0, le=MOST_MS)
