"""What a class role signs beside each artifact's index (PROTOCOL.md section 5)."""

from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.wire import Wire


class Listing(Wire):
    """TUF's ``custom`` field of a target.

    Attributes:
        release: The fleet's release counter. A device that has accepted a higher one
            of the same model refuses this target, unless ``downgrade`` permits it.
        created: When the release was made.
        override: Why a variant that was refused was released all the same.
        downgrade: Why this release may follow a newer one: the signed permission to
            go back to it. Empty when there is none. Only the class role can give it,
            the director cannot.
    """

    v: Literal[2] = 2
    release: int = Field(ge=1, le=1 << 40)
    created: AwareDatetime
    override: str = Field(default="", max_length=500)
    downgrade: str = Field(default="", max_length=200)
