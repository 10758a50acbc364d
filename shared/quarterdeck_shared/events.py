"""What happened on a device, step by step, as it happens."""

from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.assignment import MAX_SEQUENCE
from quarterdeck_shared.codes import Code
from quarterdeck_shared.ids import Sha256
from quarterdeck_shared.wire import Wire


class StepEvent(Wire):
    """One step of the update machine, or one refusal.

    Attributes:
        number: Rises with every event of a boot.
        event: Name from the update machine's table, or ``refused``.
        detail: The numbers that led to it.
    """

    v: Literal[1] = 1
    boot: int = Field(ge=0, lt=1 << 53)
    number: int = Field(ge=0, lt=1 << 53)
    at: AwareDatetime
    event: str = Field(max_length=32)
    state: str = Field(max_length=32)
    sequence: int = Field(default=0, ge=0, le=MAX_SEQUENCE)
    digest: Sha256 | None = None
    code: Code | None = None
    detail: str = Field(default="", max_length=300)
