"""Let machines become devices: answer requests to be enrolled (PROTOCOL.md 10.2).

A request is judged in the order of that section; whoever is refused learns a code and a
sentence that is the same for every token that does not fit. The certificate is recorded
and its device admitted by the broker before the answer leaves. An answer that was lost
costs nothing: the same token with the same key gets the same certificate again, until
the certificate was seen in use. The same token with another key is somebody else, and
is told of as suspicious.

Requests are taken in batches: one transaction and one change of the broker's
permissions serve all that wait.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.desk import Desk
from quarterdeck_controller.identity.issuing import Batch, is_open
from quarterdeck_controller.identity.offer import Offer, read_offer
from quarterdeck_controller.identity.requests import ProvenRequest, prove
from quarterdeck_controller.store.ledger import Entry, Outcome
from quarterdeck_controller.store.records import Certificate, Device, Token
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply, EnrolRequest
from quarterdeck_shared.errors import QuarterdeckError, RejectedError

ROOM = 2048
BATCH = 256
GATHER_S = 0.05
PER_CLAIM, PER_NONCE = 1024, 1
"""Requests of one claim, and of one asker, that may wait."""

CONCURRENT = 50
TOLD_EVERY_S = 60.0
"""A holder of a claim that guesses tokens fills neither the log nor the audit."""

ENROL = "device.enrol"
_SAID = "the token does not let this machine in"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came.

    Attributes:
        claim: Name of the claim certificate with which it came.
        nonce: Names the asker among those who share the claim.
    """

    claim: str
    nonce: str
    payload: bytes


def check_token(
    asked: EnrolRequest, claim: str, token: Token | None, now: datetime
) -> Token:
    """Return the token that lets ``asked`` in as far as tokens go.

    Raises:
        RejectedError: ``TOKEN_INVALID``, and the detail says why.
    """
    if token is None:
        raise _invalid("it is unknown")
    if token.claim != claim:
        raise _invalid(f"it belongs to {token.claim}, this is {claim}")
    if token.withdrawn_at is not None:
        raise _invalid(f"it was withdrawn at {token.withdrawn_at:%Y-%m-%d %H:%M}")
    if token.expires_at <= now:
        raise _invalid(f"it expired at {token.expires_at:%Y-%m-%d %H:%M}")
    if token.device != asked.device:
        raise _invalid(f"it is of {token.device}, {asked.device} asks with it")
    return token


def check_device(device: Device | None) -> Device:
    """Return the device that may be enrolled.

    Raises:
        RejectedError: ``TOKEN_INVALID`` or ``DEVICE_REVOKED``.
    """
    if device is None:
        raise _invalid("its device has gone")
    if device.revoked_at is not None:
        raise RejectedError(Code.DEVICE_REVOKED, f"{device.id} was revoked")
    return device


def given_before(
    token: Token,
    proven: ProvenRequest,
    certificates: Sequence[Certificate],
    now: datetime,
) -> Certificate | None:
    """Return the certificate that this token and key got before; None for a new token.

    Raises:
        RejectedError: ``TOKEN_INVALID`` when it was used with another key, or when the
            certificate was seen in use or is none any more.
    """
    if token.used_at is None:
        return None
    found = next((it for it in certificates if it.serial == token.serial), None)
    used = f"it was used at {token.used_at:%Y-%m-%d %H:%M}"
    if found is None or found.public_key != proven.public_key:
        raise _invalid(f"{used} with another key: two machines have it")
    if found.used_at is not None or not is_open(found, now):
        raise _invalid(f"{used}, and its certificate is in use or over")
    return found


class EnrolmentServer:
    """Answers whoever asks to be enrolled."""

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
        """Take the parts.

        Args:
            bus: The controller's session.
            store: Where tokens are and certificates go.
            authority: Issues them.
            clock: When tokens expire and certificates begin.
            days: How long a certificate is valid.
            admit: Has the broker let in every device of the store; it is in force when
                this returns.
        """
        self._bus = bus
        self._store = store
        self._authority = authority
        self._clock = clock
        self._days = days
        self._admit = admit
        self._desk: Desk[Asked] = Desk(room=ROOM, batch=BATCH, gather_s=GATHER_S)
        self._left: asyncio.Queue[str] = asyncio.Queue(ROOM)
        self._quiet_until: dict[str, float] = {}
        self.dropped = 0
        """Requests that found no room."""

    async def run(self) -> None:
        """Hear requests and answer them until cancelled."""
        await self._bus.subscribe(topics.enrol_any(), self.hear)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answer_all(), name="enrolment-answers")
            group.create_task(self._clear_away(), name="enrolment-clears")

    def hear(self, message: Message) -> None:
        """Queue a request; one that finds no room is dropped and will come again.

        One that the broker was told to keep is nobody's: it is taken out of it.
        """
        origin = topics.parse_enrol(message.topic)
        if origin is None or not message.payload:
            return
        if message.retained:
            with contextlib.suppress(asyncio.QueueFull):
                self._left.put_nowait(message.topic)
            return
        asked = Asked(origin.claim, origin.nonce, message.payload)
        asker = f"{asked.claim}/{asked.nonce}"
        if not self._desk.put(
            asked, claim=(asked.claim, PER_CLAIM), nonce=(asker, PER_NONCE)
        ):
            self.dropped += 1

    async def _answer_all(self) -> None:
        while True:
            await self.answer(await self._desk.take())

    async def _clear_away(self) -> None:
        while True:
            topic = await self._left.get()
            with contextlib.suppress(QuarterdeckError):
                await self._bus.publish(topic, b"", retain=True)

    async def answer(self, batch: Sequence[Asked]) -> None:
        """Judge ``batch``, have the broker admit what was granted, then reply."""
        try:
            replies = await asyncio.to_thread(self._judge_all, batch)
            if any(it.chain is not None for it in replies):
                await self._admit()
        except QuarterdeckError as error:
            # Nobody is answered, everybody asks again, and gets the same certificate.
            _log.warning("event=enrolment_held code=%s %s", error.code, error.detail)
            return
        room = asyncio.Semaphore(CONCURRENT)
        pairs = zip(batch, replies, strict=True)
        await asyncio.gather(*(self._reply(room, *pair) for pair in pairs))

    async def _reply(
        self, room: asyncio.Semaphore, asked: Asked, reply: CertificateReply
    ) -> None:
        topic = topics.enrol_reply(asked.claim, asked.nonce)
        async with room:
            try:
                await self._bus.publish(topic, reply.encode())
            except QuarterdeckError as error:
                _log.debug("event=enrolment_unanswered code=%s", error.code)

    def _judge_all(self, batch: Sequence[Asked]) -> list[CertificateReply]:
        now, decoded = self._clock.now(), [_decoded(it) for it in batch]
        with self._store.write() as records:
            facts = _Facts.read(records, decoded, now)
            proven = [facts.prove(*pair) for pair in zip(batch, decoded, strict=True)]
            found = (it for it in proven if isinstance(it, ProvenRequest))
            issuing = Batch.read(
                records, self._authority, found, days=self._days, now=now
            )
            replies = [
                self._judge(facts, issuing, *those)
                for those in zip(batch, decoded, proven, strict=True)
            ]
            issuing.write(records)
        return replies

    def _judge(
        self,
        facts: "_Facts",
        issuing: Batch,
        asked: Asked,
        request: Offer | RejectedError,
        proven: ProvenRequest | RejectedError,
    ) -> CertificateReply:
        try:
            if isinstance(proven, RejectedError):
                raise proven
            assert isinstance(request, Offer)
            return CertificateReply(
                chain=self._grant(facts, issuing, asked, request, proven)
            )
        except RejectedError as error:
            self._tell(facts, issuing, asked, request, error)
            said = _SAID if error.code is Code.TOKEN_INVALID else error.detail[:300]
            return CertificateReply(code=error.code, detail=said)

    def _grant(
        self,
        facts: "_Facts",
        issuing: Batch,
        asked: Asked,
        request: Offer,
        proven: ProvenRequest,
    ) -> bytes:
        token, device = (
            facts.tokens[request.token],
            facts.devices[proven.device],
        )
        given = given_before(token, proven, issuing.of(device.id), issuing.now)  # 6
        if given is not None:
            chain = self._authority.chain(given.certificate)
        else:
            issued = issuing.issue(device, proven, ENROL, claim=asked.claim)  # 7
            facts.use(token, issued.record.serial, issuing)
            chain = issued.chain_pem
            generation = issued.record.generation
            _log.info(
                "event=device_enrolled device=%s generation=%d", device.id, generation
            )
        if request.request.seal_key != device.seal_key:
            issuing.seals[device.id] = request.request.seal_key
        return chain

    def _tell(
        self,
        facts: "_Facts",
        issuing: Batch,
        asked: Asked,
        request: Offer | RejectedError,
        error: RejectedError,
    ) -> None:
        whose = facts.owner(request)
        subject = f"device:{whose}" if whose else f"claim:{asked.claim}"
        monotonic = self._clock.monotonic()
        if monotonic < self._quiet_until.get(subject, monotonic):
            return
        if len(self._quiet_until) > ROOM:
            self._quiet_until.clear()
        self._quiet_until[subject] = monotonic + TOLD_EVERY_S
        _log.warning(
            "event=enrolment_refused of=%s claim=%s code=%s %s",
            subject,
            asked.claim,
            error.code,
            error.detail,
        )
        told = {"code": str(error.code), "reason": error.detail, "claim": asked.claim}
        entry = Entry(issuing.now, ENROL, subject, Outcome.REFUSED, told)
        issuing.entries.append(entry)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of tokens and devices, for all requests of a batch."""

    now: datetime
    claims: frozenset[str]
    tokens: dict[str, Token]
    devices: Mapping[str, Device]

    @classmethod
    def read(
        cls,
        records: Records,
        decoded: Sequence[Offer | RejectedError],
        now: datetime,
    ) -> "_Facts":
        requests = [it for it in decoded if isinstance(it, Offer)]
        tokens = records.tokens.some({it.token for it in requests})
        devices = records.devices.some({it.device for it in tokens.values()})
        return cls(now, frozenset(records.claims.live(now)), tokens, devices)

    def prove(
        self, asked: Asked, request: Offer | RejectedError
    ) -> ProvenRequest | RejectedError:
        """Return what the request proves, as far as it hangs on no other request."""
        if isinstance(request, RejectedError):
            return request  # 1
        try:
            if asked.claim not in self.claims:  # 2
                raise _invalid(f"{asked.claim} is no claim that is open")
            found = self.tokens.get(request.token)
            token = check_token(request.request, asked.claim, found, self.now)  # 3
            device = check_device(self.devices.get(token.device))  # 4
            return prove(request.request.csr, device.id)  # 5
        except RejectedError as error:
            return error

    def use(self, token: Token, serial: str, issuing: Batch) -> None:
        """Note that ``token`` was used, for requests of the same batch too."""
        used = replace(token, used_at=self.now, serial=serial)
        self.tokens[token.digest] = used
        issuing.used[token.digest] = serial

    def owner(self, request: Offer | RejectedError) -> str | None:
        """Return the device whose token was offered, by whomever."""
        if isinstance(request, RejectedError):
            return None
        token = self.tokens.get(request.token)
        return token.device if token else None


def _decoded(asked: Asked) -> Offer | RejectedError:
    try:
        return read_offer(asked.payload)
    except RejectedError as error:
        return error


def _invalid(why: str) -> RejectedError:
    return RejectedError(Code.TOKEN_INVALID, f"the token: {why}")
