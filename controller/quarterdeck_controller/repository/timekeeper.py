"""Tell the time, signed for one asker (PROTOCOL.md section 5).

A device that asks draws a nonce; the answer repeats it, so that it cannot have been
made before the question. Nothing is kept of who asked.
"""

import logging
import re

from securesystemslib.signer import Signer

from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.roles import TIME
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.dsse import pae, sealed
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.signed_time import NONCE_PATTERN, PAYLOAD_TYPE, SignedTime

_log = logging.getLogger(__name__)
_NAME = re.compile(rf"time/({NONCE_PATTERN.strip('^$')})")


class Timekeeper:
    """Signs the time as the role ``time``, with the keys that are in force."""

    def __init__(self, repository: Repository, clock: Clock) -> None:
        self._repository = repository
        self._clock = clock
        self._signers: tuple[Signer, ...] = ()
        self._as_of = b""

    def read(self, name: str) -> bytes | None:
        """Return the file that a device asks for by ``name``: the time is one, too."""
        question = _NAME.fullmatch(name)
        if question is None:
            return self._repository.read(name)
        return self.answer(question[1])

    def answer(self, nonce: str) -> bytes | None:
        """Return the signed time for whoever drew ``nonce``; None without the key.

        A device without an answer goes by its own clock.
        """
        signers = self._in_force()
        if not signers:
            return None
        payload = SignedTime(nonce=nonce, time=self._clock.now()).encode()
        covered = pae(PAYLOAD_TYPE, payload)
        made = [signer.sign(covered) for signer in signers]
        signatures = {one.keyid: bytes.fromhex(one.signature) for one in made}
        return sealed(PAYLOAD_TYPE, payload, signatures)

    def _in_force(self) -> tuple[Signer, ...]:
        # Keys change only with a new timestamp; an answer by a key that was replaced
        # would look like an attack to every device.
        newest = self._repository.timestamp()
        if newest != self._as_of:
            self._as_of = newest
            self._signers = self._here()
        return self._signers

    def _here(self) -> tuple[Signer, ...]:
        try:
            return self._repository.signers(TIME)
        except RejectedError as error:
            _log.warning("event=time_untold code=%s %s", error.code, error.detail)
            return ()
