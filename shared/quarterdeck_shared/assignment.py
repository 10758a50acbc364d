"""The signed statement "this device runs this artifact"."""

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.ids import ClassName, DeviceId, ReleaseId, Sha256
from quarterdeck_shared.wire import Wire

PAYLOAD_TYPE = "application/vnd.quarterdeck.assignment.v2+json"
DIRECTOR_ROLE = "director"
MAX_ENVELOPE_BYTES = 16 * 1024


MAX_SEQUENCE = 1 << 53


class Target(Wire):
    """The artifact's index as TUF lists it."""

    path: str = Field(pattern=r"^classes/[a-z0-9-]{1,64}/[a-z0-9-]{1,80}\.idx$")
    length: int = Field(ge=1, le=1 << 20)
    sha256: Sha256


class Probation(Wire):
    """How a model is watched on live requests before it is committed.

    Attributes:
        seconds: How long.
        max_errors: Failed requests that are still accepted.
    """

    seconds: float = Field(default=60, ge=0, le=86_400)
    max_errors: int = Field(default=0, ge=0, le=1_000_000)


class Assignment(Wire):
    """Which artifact one device must run (PROTOCOL.md section 4).

    Attributes:
        sequence: Strictly rising for the device; the same number twice is accepted
            only with the same bytes.
        reason: Why, for people: the rollout and its wave, or the operator's words.
        content_key: For a sealed artifact: the key that opens its parts, itself
            sealed to this device (PROTOCOL.md section 7).
    """

    v: Literal[2] = 2
    device: DeviceId
    device_class: ClassName
    sequence: int = Field(ge=1, le=MAX_SEQUENCE)
    issued: AwareDatetime
    expires: AwareDatetime
    release: ReleaseId
    target: Target
    probation: Probation = Probation()
    reason: str = Field(default="", max_length=200)
    content_key: bytes | None = Field(default=None, max_length=512)

    def expired(self, now: datetime) -> bool:
        """Return whether the assignment may no longer be acted on."""
        return now >= self.expires
