"""Hear what devices refused, and believe it only when the device signed it.

A statement counts when the key of one of the device's certificates, none that was
revoked, signed exactly these bytes (PROTOCOL.md section 6). Anything else is counted
and logged once per device: who has the broker can send it as often as he likes.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from quarterdeck_controller.store.records import Certificate, StoredRefusal
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import opened
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.refusal import MAX_REFUSAL_BYTES, PAYLOAD_TYPE, Refusal

QUEUE, BATCH = 4096, 200
WAITING_PER_DEVICE = 16
_NOTED = 20_000
LINES, LINES_EVERY_S = 10, 60.0
"""Refusals of one device that are logged, and in which time; all are kept."""

_log = logging.getLogger(__name__)

Keys = Mapping[str, bytes]
"""Public keys (SubjectPublicKeyInfo, DER) by their ids."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A statement as it came, verified by nobody."""

    device: str
    envelope: bytes
    at: datetime


def keys_of(certificates: Iterable[Certificate]) -> Keys:
    """Return the keys with which a device may sign: those of none that was revoked."""
    return {
        sha256(it.public_key).hexdigest(): it.public_key
        for it in certificates
        if it.revoked_at is None
    }


def verified(envelope: bytes, device: str, keys: Keys) -> Refusal:
    """Return the refusal in ``envelope`` if ``device`` signed it.

    Raises:
        RejectedError: ``TOO_LARGE``, ``MALFORMED``; ``SIGNATURE_INVALID`` when none of
            ``keys`` signed it; then ``VERSION_UNKNOWN``, or ``WRONG_DEVICE`` when it
            speaks of another.
    """
    given = opened(envelope, PAYLOAD_TYPE, limit=MAX_REFUSAL_BYTES)
    if not any(
        keyid in keys and _has_signed(keys[keyid], signature, given.signed)
        for keyid, signature in given.signatures.items()
    ):
        named = ", ".join(f"{key[:12]!a}" for key in given.signatures)
        raise RejectedError(
            Code.SIGNATURE_INVALID,
            f"signed by {named}, not by one of the {len(keys)} keys of {device}",
        )
    refusal = Refusal.decode(given.payload, limit=MAX_REFUSAL_BYTES)
    if refusal.device != device:
        raise RejectedError(
            Code.WRONG_DEVICE, f"{device} signed a refusal of {refusal.device}"
        )
    return refusal


def _has_signed(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    try:
        key = load_der_public_key(public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, signed, ec.ECDSA(SHA256()))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


class RefusalListener:
    """Hears, verifies and keeps the refusals of every device.

    Args:
        on_change: Called on the loop after something new was kept.

    Attributes:
        unproven: Statements that their device did not sign, by device.
        dropped: Messages that found the queue, or their device's share of it, full.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        clock: Clock,
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.unproven: Counter[str] = Counter()
        self.dropped = 0
        self._bus = bus
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._queue: asyncio.Queue[Heard] = asyncio.Queue(QUEUE)
        self._waiting: Counter[str] = Counter()
        self._lines: Counter[str] = Counter()
        self._lines_until = 0.0

    async def run(self) -> None:
        """Subscribe, then hear and keep until cancelled."""
        await self._bus.subscribe(topics.up_any(topics.UP_REFUSAL), self.hear)
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty() and len(batch) < BATCH:
                batch.append(self._queue.get_nowait())
            self._waiting.subtract(heard.device for heard in batch)
            self._waiting += Counter()  # forget those that have none left
            try:
                added = await asyncio.to_thread(self.keep, batch)
            except TransientError as error:
                _log.warning("event=refusals_lost code=%s %s", error.code, error)
                continue
            if added:
                self._on_change()

    def hear(self, message: Message) -> None:
        """Queue a device's statement; an empty one takes it out of the broker."""
        origin = topics.parse_up(message.topic)
        if origin is None or not message.payload:
            return
        crowded = self._waiting[origin.device] >= WAITING_PER_DEVICE
        if crowded or self._queue.full():
            self.dropped += 1
            return
        self._waiting[origin.device] += 1
        heard = Heard(origin.device, message.payload, self._clock.now())
        self._queue.put_nowait(heard)

    def keep(self, batch: Sequence[Heard]) -> int:
        """Verify and keep statements; return how many were new.

        Raises:
            QuarterdeckError: The store is busy or damaged; nothing is kept.
        """
        with self._store.write() as records:
            named = {heard.device for heard in batch}
            certified = records.certificates.some(named)
            keys = {it: keys_of(certified.get(it, ())) for it in named}
            proven = [it for it in (self._judge(one, keys) for one in batch) if it]
            return records.refusals.add(proven)

    def _judge(self, heard: Heard, keys: Mapping[str, Keys]) -> StoredRefusal | None:
        try:
            refusal = verified(heard.envelope, heard.device, keys[heard.device])
        except RejectedError as error:
            self._count(heard.device, error)
            return None
        _log.log(
            self._level(heard.device),
            "event=device_refused device=%s code=%s attack=%s repeats=%d %s",
            refusal.device,
            refusal.code,
            refusal.attack or "none",
            refusal.repeats,
            refusal.detail,
        )
        return StoredRefusal(refusal, heard.at)

    def _level(self, device: str) -> int:
        # A device that signs whatever comes to its mind may not fill the log.
        now = self._clock.monotonic()
        if now >= self._lines_until:
            self._lines.clear()
            self._lines_until = now + LINES_EVERY_S
        self._lines[device] += 1
        return logging.WARNING if self._lines[device] <= LINES else logging.DEBUG

    def _count(self, device: str, error: RejectedError) -> None:
        first = device not in self.unproven
        if not first or len(self.unproven) < _NOTED:
            self.unproven[device] += 1
        level = logging.WARNING if first else logging.DEBUG
        _log.log(
            level,
            "event=refusal_unproven device=%s code=%s %s",
            device,
            error.code,
            error.detail,
        )
