"""What an operator asks of a rollout, refused here when it makes no sense."""

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_WAVES = 32
MONTH_S = 30 * 86_400
_WHOLE = 100
_WAVE = re.compile(r"([0-9]{1,7})|([0-9]{1,3}(?:\.[0-9]{1,2})?)%")


class Policy(BaseModel):
    """How carefully a release moves to its cohort.

    Attributes:
        waves: How much of the cohort has the release at the end of each wave: a count
            (``5``) or a share (``25%``). The last one is ``100%``.
        soak_s: How long a wave is watched after its devices have settled.
        deadline_s: How long an online device may take to commit. Past it, it counts
            as failed. Offline devices are left out of the count.
        hold_s: How long an inconclusive gate may hold a wave past its soak before the
            rollout is paused.
        max_failed: Most failed devices accepted; None leaves it to the share.
        max_failed_share: Largest share of failed among the devices that could act.
        accuracy_drop: Most percentage points of labelled accuracy that may be lost
            against the same devices' previous release; None is no accuracy gate.
        min_labelled: Labelled inferences needed on either side to compare accuracy.
        baseline_s: How far back the previous release's telemetry is looked at.
        latency_ratio: Most that the 90th percentile of latency may be of the previous
            release's; None is no latency gate.
        on_failure: What a failed gate does.
        probation_s: How long a device watches the model before it commits.
        probation_errors: Failed inferences it accepts in that time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    waves: tuple[str, ...] = Field(
        default=("1", "25%", "100%"), min_length=1, max_length=MAX_WAVES
    )
    soak_s: float = Field(default=300, ge=0, le=MONTH_S)
    deadline_s: float = Field(default=900, gt=0, le=MONTH_S)
    hold_s: float = Field(default=3600, ge=0, le=MONTH_S)
    max_failed: int | None = Field(default=0, ge=0)
    max_failed_share: float | None = Field(default=None, ge=0, lt=1)
    accuracy_drop: float | None = Field(default=None, ge=0, lt=100)
    min_labelled: int = Field(default=200, ge=1, le=10_000_000)
    baseline_s: float = Field(default=86_400, gt=0, le=MONTH_S)
    latency_ratio: float | None = Field(default=None, ge=1, le=100)
    on_failure: Literal["rollback", "pause"] = "rollback"
    probation_s: float = Field(default=60, ge=0, le=86_400)
    probation_errors: int = Field(default=0, ge=0, le=1_000_000)

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """Return the policy that ``values`` describe.

        Raises:
            RejectedError: ``POLICY_INVALID``, with the field and what it was.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RejectedError(Code.POLICY_INVALID, _explain(error)) from error

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the policy that was stored as JSON.

        Raises:
            RejectedError: ``POLICY_INVALID`` when it is of another version.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RejectedError(Code.POLICY_INVALID, _explain(error)) from error

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        _check_waves(self.waves)
        if self.max_failed is None and self.max_failed_share is None:
            raise ValueError(
                "set max_failed or max_failed_share: without either, nothing stops it"
            )
        if self.probation_s >= self.deadline_s:
            raise ValueError(
                f"probation_s is {self.probation_s:g} and deadline_s is"
                f" {self.deadline_s:g}: no device could commit in time"
            )
        return self

    def limit(self, wave: int, total: int) -> int:
        """Return how many of ``total`` devices may have the release in ``wave``."""
        return max(_size(text, total) for text in self.waves[: wave + 1])


def _size(wave: str, total: int) -> int:
    if wave.endswith("%"):
        return min(total, math.ceil(round(float(wave[:-1]) * total / 100, 6)))
    return min(total, int(wave))


def _check_waves(waves: tuple[str, ...]) -> None:
    for wave in waves:
        if not _WAVE.fullmatch(wave) or float(wave.rstrip("%")) <= 0:
            raise ValueError(f"wave {wave!r} is neither a count nor a share like 25%")
    shares = [float(wave[:-1]) for wave in waves if wave.endswith("%")]
    counts = [float(wave) for wave in waves if not wave.endswith("%")]
    for numbers in (shares, counts):
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            raise ValueError(f"waves must grow, got {','.join(waves)}")
    if not waves[-1].endswith("%") or shares[-1] != _WHOLE:
        raise ValueError(f"the last wave must be 100%, got {','.join(waves)}")


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    words = first["msg"].removeprefix("Value error, ")
    return f"{where}: {words}, got {first['input']!r}" if where else words
