"""Give devices their next certificate before the last one ends (PROTOCOL.md 10.3).

Who asks is what the topic says: the broker lets nobody else publish there. A device
makes a new key each time. Its certificates so far go on counting until the new one was
seen in use, so that neither a lost answer nor a device that died before it had stored
the new one locks anybody out. The same key asked for again gets the same certificate.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.certifying import BACKDATED
from quarterdeck_controller.identity.desk import Desk
from quarterdeck_controller.identity.issuing import Batch, is_open
from quarterdeck_controller.identity.requests import ProvenRequest, prove
from quarterdeck_controller.store.records import Certificate, Device
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply, RenewalRequest
from quarterdeck_shared.errors import QuarterdeckError, RejectedError

ROOM = 4096
BATCH = 256
GATHER_S = 0.05
PER_DEVICE = 2
CONCURRENT = 50
SOONEST = 1000
"""A device gets a new certificate when this part of the newest one's time is over: 43
minutes of 30 days. It bounds what a device that asks without end can make us keep."""

RENEW = "device.renew"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A device's request as it came."""

    device: str
    payload: bytes


def given_before(
    proven: ProvenRequest, certificates: Sequence[Certificate], now: datetime
) -> Certificate | None:
    """Return the certificate that this key got before; None when it gets a new one.

    Args:
        proven: The request.
        certificates: Those of the device, newest first.
        now: The time.

    Raises:
        RejectedError: ``NOT_ENROLLED`` when no certificate of the device counts now,
            ``REQUEST_UNPROVEN`` for the key of the one in use, ``NOT_ALLOWED`` so soon
            after the last one.
    """
    live = [it for it in certificates if is_open(it, now)]
    if not live:
        raise RejectedError(
            Code.NOT_ENROLLED, f"{proven.device} has no certificate that counts"
        )
    newest = live[0]
    if newest.public_key == proven.public_key and newest.used_at is None:
        return newest
    if newest.public_key == proven.public_key:
        raise RejectedError(
            Code.REQUEST_UNPROVEN,
            "the certificate request: its key is that of the certificate in use",
        )
    begun = newest.not_before + BACKDATED
    soonest = begun + (newest.not_after - begun) / SOONEST
    if now < soonest:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"a new certificate at {now:%H:%M:%S}, {soonest:%H:%M:%S} is the soonest",
        )
    return None


class RenewalServer:
    """Answers devices that ask for their next certificate."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        authority: Authority,
        clock: Clock,
        *,
        days: float,
        admit: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the parts, which are those of ``enrolment.EnrolmentServer``."""
        self._bus = bus
        self._store = store
        self._authority = authority
        self._clock = clock
        self._days = days
        self._admit = admit
        self._desk: Desk[Asked] = Desk(room=ROOM, batch=BATCH, gather_s=GATHER_S)
        self._scolded: set[str] = set()

    async def run(self) -> None:
        """Hear requests and answer them until cancelled."""
        await self._bus.subscribe(topics.up_any(topics.UP_CERTIFICATE), self.hear)
        while True:
            await self.answer(await self._desk.take())

    def hear(self, message: Message) -> None:
        """Queue a request; one that finds no room is dropped and will come again."""
        origin = topics.parse_up(message.topic)
        if origin is not None and not message.retained:
            asked = Asked(origin.device, message.payload)
            self._desk.put(asked, device=(asked.device, PER_DEVICE))

    async def answer(self, batch: Sequence[Asked]) -> None:
        """Judge ``batch``, have the broker admit what was granted, then reply."""
        try:
            replies = await asyncio.to_thread(self._judge_all, batch)
            if any(it is not None and it.chain is not None for it in replies):
                await self._admit()
        except QuarterdeckError as error:
            _log.warning("event=renewal_held code=%s %s", error.code, error.detail)
            return
        room = asyncio.Semaphore(CONCURRENT)
        pairs = zip(batch, replies, strict=True)
        await asyncio.gather(*(self._reply(room, *pair) for pair in pairs))

    async def _reply(
        self, room: asyncio.Semaphore, asked: Asked, reply: CertificateReply | None
    ) -> None:
        if reply is None:
            return
        topic = topics.down(asked.device, topics.DOWN_CERTIFICATE)
        async with room:
            try:
                await self._bus.publish(topic, reply.encode())
            except QuarterdeckError as error:
                _log.debug("event=renewal_unanswered code=%s", error.code)

    def _judge_all(self, batch: Sequence[Asked]) -> list[CertificateReply | None]:
        now, decoded = self._clock.now(), [_decoded(it) for it in batch]
        with self._store.write() as records:
            devices = records.devices.some({it.device for it in batch})
            proven = [
                _proven(devices.get(asked.device), request)
                for asked, request in zip(batch, decoded, strict=True)
            ]
            found = (it for it in proven if isinstance(it, ProvenRequest))
            issuing = Batch.read(
                records, self._authority, found, days=self._days, now=now
            )
            replies = [
                self._judge(devices, issuing, *those)
                for those in zip(batch, decoded, proven, strict=True)
            ]
            issuing.write(records)
        return replies

    def _judge(
        self,
        devices: Mapping[str, Device],
        issuing: Batch,
        asked: Asked,
        request: RenewalRequest | RejectedError,
        proven: ProvenRequest | RejectedError,
    ) -> CertificateReply | None:
        """Return the answer; None to whom is no device or makes no sense."""
        try:
            if isinstance(proven, RejectedError):
                raise proven
            chain = self._grant(devices[asked.device], issuing, proven)
        except RejectedError as error:
            self._tell(asked.device, error)
            if isinstance(request, RejectedError) or error.code is Code.NOT_FOUND:
                return None
            return CertificateReply(
                id=request.id, code=error.code, detail=error.detail[:300]
            )
        assert isinstance(request, RenewalRequest)
        self._scolded.discard(asked.device)
        return CertificateReply(id=request.id, chain=chain)

    def _grant(self, device: Device, issuing: Batch, proven: ProvenRequest) -> bytes:
        given = given_before(proven, issuing.of(device.id), issuing.now)  # 4
        if given is not None:
            return self._authority.chain(given.certificate)
        issued = issuing.issue(device, proven, RENEW)  # 5
        _log.info(
            "event=certificate_renewed device=%s generation=%d",
            device.id,
            issued.record.generation,
        )
        return issued.chain_pem

    def _tell(self, device: str, error: RejectedError) -> None:
        # A device may not fill the log: the first is told, the rest whispered.
        level = logging.DEBUG if device in self._scolded else logging.WARNING
        if len(self._scolded) < ROOM:
            self._scolded.add(device)
        _log.log(
            level,
            "event=renewal_refused device=%s code=%s %s",
            device,
            error.code,
            error.detail,
        )


def _decoded(asked: Asked) -> RenewalRequest | RejectedError:
    try:
        return RenewalRequest.decode(asked.payload)  # 1
    except RejectedError as error:
        return error


def _proven(
    device: Device | None, request: RenewalRequest | RejectedError
) -> ProvenRequest | RejectedError:
    """Return what the request proves, as far as it hangs on no other request."""
    if isinstance(request, RejectedError):
        return request
    if device is None:
        return RejectedError(Code.NOT_FOUND, "nobody enrolled it")
    if device.revoked_at is not None:  # 2
        return RejectedError(Code.DEVICE_REVOKED, f"{device.id} was revoked")
    try:
        return prove(request.csr, device.id)  # 3
    except RejectedError as error:
        return error
