"""How the device's identity stands, for whoever stands beside the device."""

from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.codes import Code
from quarterdeck_shared.ids import Sha256
from quarterdeck_shared.wire import Wire

KeyPlace = Literal["file", "tpm", "elsewhere"]
"""A private key is beside its certificate, in the TPM, or in a file of its own."""


class IdentityStanding(Wire):
    """Which certificate is in use, and what is wrong with it.

    Attributes:
        enrolled: Whether there is a certificate that can be used.
        generation: Counts the certificates of the device.
        until: When it ends.
        renews: When the next one is asked for.
        key: Where the private key is.
        key_id: Sha256 of the public key, which the controller knows it by.
        new: A certificate came and is not let in yet.
        code: What is wrong; None when nothing is.
    """

    enrolled: bool = False
    generation: int = Field(default=0, ge=0)
    until: AwareDatetime | None = None
    renews: AwareDatetime | None = None
    key: KeyPlace | None = None
    key_id: Sha256 | None = None
    new: bool = False
    code: Code | None = None
    detail: str = ""
