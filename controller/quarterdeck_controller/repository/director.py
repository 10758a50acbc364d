"""Sign assignments as the director (PROTOCOL.md section 4)."""

import json

from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signer

from quarterdeck_controller.home import Home
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.roles import DIRECTOR
from quarterdeck_shared.assignment import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Assignment,
)
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


class Director:
    """Holds the director's key, and takes up the new one when it was replaced.

    Raises:
        RejectedError: ``NOT_ALLOWED`` when the key is not on this machine,
            ``HOME_INVALID`` when it cannot be read or devices do not know it.
    """

    def __init__(self, home: Home) -> None:
        self._repository = Repository(home, SystemClock())
        self._as_of = self._repository.stamp()
        self._signers = self._repository.signers(DIRECTOR)

    def keyids(self) -> frozenset[str]:
        """Return the ids of the keys that it signs with now.

        Raises:
            RejectedError: As when it was made.
        """
        return frozenset(signer.public_key.keyid for signer in self._in_force())

    def sign(self, assignment: Assignment) -> bytes:
        """Return ``assignment`` in a signed DSSE envelope.

        Raises:
            RejectedError: ``TOO_LARGE`` when no device would read it, else as when it
                was made.
        """
        envelope = Envelope(assignment.encode(), PAYLOAD_TYPE, {})
        for signer in self._in_force():
            envelope.sign(signer)
        data = json.dumps(envelope.to_dict(), separators=(",", ":")).encode()
        if len(data) > MAX_ENVELOPE_BYTES:
            raise RejectedError(
                Code.TOO_LARGE,
                f"an assignment of {len(data)} bytes; {MAX_ENVELOPE_BYTES} are allowed",
            )
        return data

    def _in_force(self) -> tuple[Signer, ...]:
        # Keys change only with a new timestamp; what a replaced key signs is refused.
        newest = self._repository.stamp()
        if newest != self._as_of:
            self._signers = self._repository.signers(DIRECTOR)
            self._as_of = newest
        return self._signers
