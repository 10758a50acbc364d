"""How the device asks for its first certificate, over a claim (PROTOCOL.md section 10).

The key is on the disk before the request leaves, and the token stays until the
certificate is: killed at any point, the next attempt asks for the same key with the
same token, which the controller answers again.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_agent.identity.certificate import Certificate, Claim, read_claim
from quarterdeck_agent.identity.files import IdentityFiles, delete
from quarterdeck_agent.identity.key import DeviceKey
from quarterdeck_agent.identity.plan import Rng, clock_doubt, wait_s
from quarterdeck_agent.identity.request import certificate_request
from quarterdeck_agent.identity.token import asked_with
from quarterdeck_agent.settings import Settings, endpoint, invalid, read
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Endpoint
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply, EnrolRequest
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError

ANSWER_S = 15.0
"""Longest wait for an answer; the controller has the broker learn of us before it."""
CONNECT_S = 20.0
MIN_TOKEN_BYTES, MAX_TOKEN_BYTES = 16, 128
MAX_REPLY_BYTES = 48 * 1024
_LOST = b""

MAY_WORK_LATER = frozenset(
    {
        Code.BROKER_FAILED,
        Code.BROKER_UNREACHABLE,
        Code.DISK_FAILED,
        Code.DISK_FULL,
        Code.NOT_CONNECTED,
        Code.OVERLOADED,
        Code.STORE_BUSY,
        Code.TIMED_OUT,
    }
)
"""Codes of an answer after which the same is asked again."""

Connect = Callable[[Endpoint], Bus]
"""Makes a session that is not started, under a client id of its own."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a request needs, on the disk already."""

    key: DeviceKey
    request: bytes


class Enrolment:
    """Enrols this machine as the device that settings name.

    Args:
        connect: Makes the session of the claim.
        told: Hears in a sentence what is being waited for.
        answer_s: Longest wait for an answer.
    """

    def __init__(
        self,
        settings: Settings,
        files: IdentityFiles,
        clock: Clock,
        rng: Rng,
        *,
        connect: Connect,
        told: Callable[[str], None] = log.info,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._settings = settings
        self._files = files
        self._clock = clock
        self._rng = rng
        self._connect = connect
        self._told = told
        self._answer_s = answer_s
        self._nonce = secrets.token_hex(16)

    async def run(self, token: str, *, tpm: bool = False) -> Certificate:
        """Return the certificate once it is in use; wait for whoever is away.

        The key is made in the TPM when ``tpm`` or the settings say so.

        Raises:
            RejectedError: The controller refused, the claim or a key cannot be used, or
                what came is no certificate of this device.
            TransientError: ``DISK_FULL`` or ``DISK_FAILED``.
        """
        claim = self._claim()
        prepared = await asyncio.to_thread(self._prepare, token, tpm=tpm)
        file = self._settings.enrolment.claim
        bus = self._connect(endpoint(self._settings, file, file))
        await bus.start()
        try:
            chain = await self._ask_until_answered(bus, claim, prepared.request)
        finally:
            await bus.close()
        return await asyncio.to_thread(self._take, chain, prepared.key)

    def _claim(self) -> Claim:
        path = self._settings.enrolment.claim
        data = read(path)
        try:
            claim = read_claim(data)
        except RejectedError as error:
            raise invalid(f"{path} holds no claim: {error.detail}") from error
        doubt = clock_doubt(claim.begins, claim.ends, self._clock.now())
        if doubt:
            raise RejectedError(Code.CERTIFICATE_INVALID, f"{path}: {doubt}")
        return claim

    def _prepare(self, token: str, *, tpm: bool) -> Prepared:
        device, tpm = self._settings.device, tpm or self._settings.identity.tpm
        key = self._files.new_key(tpm=tpm)
        request = EnrolRequest(
            device=device,
            csr=certificate_request(device, key),
            seal_key=self._files.seal_key(),
        )
        return Prepared(key, asked_with(token, request))

    async def _ask_until_answered(
        self, bus: Bus, claim: Claim, request: bytes
    ) -> bytes:
        replies: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)
        topic = topics.enrol_reply(claim.name, self._nonce)
        await bus.subscribe(topic, lambda message: _put(replies, message.payload))
        bus.on_disconnected(lambda: _put(replies, _LOST))
        failures = 0
        while True:
            try:
                await _connected(bus)
                return await self._ask(bus, claim, request, replies)
            except TransientError as error:
                self._told(f"{error.code}: {error.detail}; it is tried again")
            failures += 1
            await asyncio.sleep(wait_s(failures, refused=False, rng=self._rng))

    async def _ask(
        self,
        bus: Bus,
        claim: Claim,
        request: bytes,
        replies: "asyncio.Queue[bytes]",
    ) -> bytes:
        topic = topics.enrol_request(claim.name, self._nonce)
        while not replies.empty() and (late := replies.get_nowait()):
            if (chain := _answer(late)) is not None:
                return chain
        await bus.publish(topic, request)
        self._told("asked to be enrolled, waiting for the controller")
        try:
            async with asyncio.timeout(self._answer_s):
                while (payload := await replies.get()) != _LOST:
                    if (chain := _answer(payload)) is not None:
                        return chain
        except TimeoutError as error:
            detail = f"the controller did not answer within {self._answer_s:g} s"
            raise TransientError(Code.TIMED_OUT, detail) from error
        # an answer to a session that is gone never comes
        raise TransientError(Code.NOT_CONNECTED, "the broker closed the connection")

    def _take(self, chain: bytes, key: DeviceKey) -> Certificate:
        try:
            certificate = self._files.keep(chain, key)
        except RejectedError:
            self._files.drop_new()  # another key is asked for next time
            raise
        finish(self._settings, self._files)
        return certificate


def finish(settings: Settings, files: IdentityFiles) -> None:
    """Have the certificate that came be the device's, and forget what let it ask.

    In this order, so that a device that is killed here has either of the two.

    Raises:
        TransientError: ``DISK_FULL`` or ``DISK_FAILED``.
    """
    for path in (settings.enrolment.token, settings.enrolment.claim):
        delete(path)
    files.promote()


def read_token(path: Path) -> str | None:
    """Return the token in ``path``; None when there is no such file.

    Raises:
        RejectedError: ``TOKEN_INVALID``: it holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKEN_BYTES * 2)
    except FileNotFoundError:
        return None
    except OSError as error:
        detail = f"{path}: {error.strerror}"
        raise RejectedError(Code.TOKEN_INVALID, detail) from error
    return checked_token(data, str(path))


def checked_token(data: bytes, where: str) -> str:
    """Return the token that ``data`` from ``where`` is.

    Raises:
        RejectedError: ``TOKEN_INVALID``; the detail never holds what was there.
    """
    token = data.strip().decode("ascii", errors="replace")
    if not MIN_TOKEN_BYTES <= len(token) <= MAX_TOKEN_BYTES or not _is_token(token):
        raise RejectedError(Code.TOKEN_INVALID, f"{where} does not hold a token")
    return token


def refusal_of(reply: CertificateReply) -> QuarterdeckError | None:
    """Return why the controller refused; None when it did not."""
    if reply.chain is not None or reply.code is None:
        return None
    detail = f"the controller says: {reply.detail or 'nothing more'}"
    if reply.code in MAY_WORK_LATER:
        return TransientError(reply.code, detail)
    return RejectedError(reply.code, detail)


async def _connected(bus: Bus) -> None:
    """Return once the broker lets the claim in; a refusal may end by itself, too.

    A broker learns of a claim a moment after the operator made it.
    """
    try:
        await bus.wait_connected(CONNECT_S)
    except RejectedError as error:
        raise TransientError(error.code, error.detail) from error


def _answer(payload: bytes) -> bytes | None:
    """Return the chain in an answer; None when it is not one, which is no end."""
    try:
        reply = CertificateReply.decode(payload, limit=MAX_REPLY_BYTES)
    except RejectedError as error:
        log.warning("an answer was dropped: %s", error)
        return None
    refusal = refusal_of(reply)
    if refusal is not None:
        raise refusal
    return reply.chain


def _put(replies: "asyncio.Queue[bytes]", payload: bytes) -> None:
    if not replies.full():  # more than one is nothing that a controller sends
        replies.put_nowait(payload)


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
