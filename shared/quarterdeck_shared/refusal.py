"""A device's signed statement that it refused something, and why.

The payload of a DSSE envelope (``dsse.Sealed``) of type ``PAYLOAD_TYPE``, signed with
the key of the device's certificate, so that a broker can neither forge nor change it.
The key id is the sha256 of the certificate's public key (SubjectPublicKeyInfo, DER).
PROTOCOL.md section 6.
"""

from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.assignment import MAX_SEQUENCE
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.codes import Code
from quarterdeck_shared.ids import DeviceId, Sha256
from quarterdeck_shared.wire import Wire

PAYLOAD_TYPE = "application/vnd.quarterdeck.refusal.v1+json"
MAX_REFUSAL_BYTES = 8 * 1024


class Refusal(Wire):
    """What was refused.

    Attributes:
        number: Rises with every refusal of a boot.
        code: The check that failed.
        attack: What it looks like; None when it looks like no attack.
        refused: Digest of the bytes that were refused, when they were one message.
        sequence: Of the newest assignment that the device has accepted.
        active: Digest of the artifact that goes on running; None for none.
        repeats: Times the same was refused since the last statement.
    """

    v: Literal[1] = 1
    device: DeviceId
    boot: int = Field(ge=0, lt=1 << 53)
    number: int = Field(ge=0, lt=1 << 53)
    at: AwareDatetime
    code: Code
    attack: Attack | None = None
    refused: Sha256 | None = None
    sequence: int = Field(ge=0, le=MAX_SEQUENCE)
    active: Sha256 | None = None
    detail: str = Field(default="", max_length=300)
    repeats: int = Field(default=0, ge=0, lt=1 << 53)
