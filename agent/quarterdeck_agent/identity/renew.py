"""How the device gets the next certificate, and finds out whether it is let in.

A renewal goes over the session of the certificate in use: the broker ties the topic to
it. What comes is kept beside and tried on a session of its own; only when that hears
the controller does it replace the one in use (PROTOCOL.md section 10).
"""

import asyncio
import secrets

from quarterdeck_agent.identity.certificate import Certificate
from quarterdeck_agent.identity.enrol import (
    ANSWER_S,
    MAX_REPLY_BYTES,
    Connect,
    refusal_of,
)
from quarterdeck_agent.identity.files import Identity, IdentityFiles
from quarterdeck_agent.identity.key import DeviceKey
from quarterdeck_agent.identity.request import certificate_request
from quarterdeck_agent.settings import Settings, endpoint
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply, RenewalRequest
from quarterdeck_shared.errors import RejectedError, TransientError

TRY_S = 8.0
"""Longest a new certificate is tried at a time."""
_ID_BITS = 53


async def ask(
    bus: Bus, settings: Settings, files: IdentityFiles, *, tpm: bool
) -> Certificate:
    """Ask for a certificate of a new key and keep it beside.

    ``tpm`` is whether the key in use is in the TPM: the new one has to be where it is,
    because this process could not use it elsewhere.

    Raises:
        RejectedError: The controller refused, a key cannot be used, or what came is no
            certificate of this device.
        TransientError: No answer, or the disk is full or failed.
    """
    key = await asyncio.to_thread(files.new_key, tpm=tpm)
    csr = await asyncio.to_thread(certificate_request, settings.device, key)
    chain = await _exchange(bus, settings.device, csr)
    return await asyncio.to_thread(_keep, files, chain, key)


async def is_let_in(settings: Settings, new: Identity, connect: Connect) -> None:
    """Return when the broker let ``new`` in, and let it hear the controller.

    Some brokers let everybody in whose certificate is good, and then deliver nothing of
    what is not allowed: a session alone shows nothing.

    Raises:
        QuarterdeckError: It was not, for whatever reason.
    """
    bus = connect(endpoint(settings, new.certificate_file, new.key_file))
    heard = asyncio.Event()
    await bus.subscribe(topics.CONTROLLER_STATE, lambda _message: heard.set())
    await bus.start()
    try:
        await bus.wait_connected(TRY_S)
        async with asyncio.timeout(TRY_S):
            await heard.wait()
    except TimeoutError as error:
        detail = f"the new certificate heard nothing within {TRY_S:g} s"
        raise TransientError(Code.TIMED_OUT, detail) from error
    finally:
        await bus.close()


async def _exchange(bus: Bus, device: str, csr: bytes) -> bytes:
    request = RenewalRequest(id=secrets.randbits(_ID_BITS), csr=csr)
    answer: asyncio.Future[CertificateReply] = (
        asyncio.get_running_loop().create_future()
    )

    def hear(message: Message) -> None:
        reply = _reply(message.payload)
        if reply is None or reply.id != request.id or answer.done():
            return
        if reply.chain is not None or reply.code is not None:
            answer.set_result(reply)

    topic = topics.down(device, topics.DOWN_CERTIFICATE)
    await bus.subscribe(topic, hear)
    try:
        await bus.publish(topics.up(device, topics.UP_CERTIFICATE), request.encode())
        async with asyncio.timeout(ANSWER_S):
            reply = await answer
    except TimeoutError as error:
        detail = f"the controller did not answer within {ANSWER_S:g} s"
        raise TransientError(Code.TIMED_OUT, detail) from error
    finally:
        await bus.unsubscribe(topic)
    refusal = refusal_of(reply)
    if refusal is not None:
        raise refusal
    assert reply.chain is not None
    return reply.chain


def _reply(payload: bytes) -> CertificateReply | None:
    try:
        return CertificateReply.decode(payload, limit=MAX_REPLY_BYTES)
    except RejectedError:
        return None  # of nobody whom we asked


def _keep(files: IdentityFiles, chain: bytes, key: DeviceKey) -> Certificate:
    try:
        return files.keep(chain, key)
    except RejectedError:
        files.drop_new()  # another key is asked for next time
        raise
