"""Sign assignments as the director (PROTOCOL.md section 4)."""

import json

from securesystemslib.dsse import Envelope

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.repository import Repository
from quarterdeck_controller.release.roles import DIRECTOR
from quarterdeck_shared.assignment import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Assignment,
)
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


class Director:
    """Holds the director's key, read once.

    Raises:
        RejectedError: ``NOT_ALLOWED`` when the key is not on this machine,
            ``HOME_INVALID`` when it cannot be read or devices do not know it.
    """

    def __init__(self, home: Home) -> None:
        self._signers = Repository(home, SystemClock()).signers(DIRECTOR)

    def sign(self, assignment: Assignment) -> bytes:
        """Return ``assignment`` in a signed DSSE envelope.

        Raises:
            RejectedError: ``TOO_LARGE`` when no device would read it.
        """
        envelope = Envelope(assignment.encode(), PAYLOAD_TYPE, {})
        for signer in self._signers:
            envelope.sign(signer)
        data = json.dumps(envelope.to_dict(), separators=(",", ":")).encode()
        if len(data) > MAX_ENVELOPE_BYTES:
            raise RejectedError(
                Code.TOO_LARGE,
                f"an assignment of {len(data)} bytes; {MAX_ENVELOPE_BYTES} are allowed",
            )
        return data
