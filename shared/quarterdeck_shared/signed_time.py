"""The time, signed for one asker (PROTOCOL.md section 5).

A device without a clock that it can trust asks for the file ``time/<nonce>``. The
answer is a DSSE envelope of type ``PAYLOAD_TYPE``, signed by the TUF role ``time``;
the nonce shows that it was made after the question.
"""

from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.wire import Wire

PAYLOAD_TYPE = "application/vnd.quarterdeck.time.v1+json"
TIME_ROLE = "time"
NONCE_PATTERN = r"^[0-9a-f]{32}$"
MAX_TIME_BYTES = 2048


class SignedTime(Wire):
    """The time at which the controller answered."""

    v: Literal[1] = 1
    nonce: str = Field(pattern=NONCE_PATTERN)
    time: AwareDatetime


def time_name(nonce: str) -> str:
    """Return the name under which a device asks for the time."""
    return f"time/{nonce}"
