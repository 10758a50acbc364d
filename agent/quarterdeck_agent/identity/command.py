"""What ``quarterdeck-agent enrol`` does: from options to a sentence."""

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from quarterdeck_agent.identity.certificate import Certificate
from quarterdeck_agent.identity.describe import describe_files
from quarterdeck_agent.identity.enrol import (
    MAX_TOKEN_BYTES,
    Enrolment,
    checked_token,
    finish,
    read_token,
)
from quarterdeck_agent.identity.files import IdentityFiles
from quarterdeck_agent.identity.plan import clock_doubt
from quarterdeck_agent.lock import exclusive
from quarterdeck_agent.settings import Settings, check_trust
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Bus, Endpoint
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError

VARIABLE = "QUARTERDECK_ENROL_TOKEN"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for.

    Attributes:
        token: As an argument, which others on the machine can read.
        token_file: Where the token is; ``-`` for standard input.
        again: Also when the device is enrolled.
        tpm: Make the key in the TPM.
        wait_s: Longest wait for the broker and the controller.
    """

    token: str | None = None
    token_file: Path | None = None
    again: bool = False
    tpm: bool = False
    wait_s: float = 300.0


def enrol(
    settings: Settings, wanted: Wanted, told: Callable[[str], None]
) -> dict[str, object]:
    """Enrol this machine, unless it is; return what to show.

    Raises:
        QuarterdeckError: Why it is not enrolled.
    """
    check_trust(settings)
    clock = SystemClock()
    with _held(settings):
        before = _already(settings, wanted, clock.now())
        if before is None:
            asyncio.run(_enrol(settings, wanted, clock, told))
    shown = describe_files(settings).model_dump(mode="json", exclude={"new"})
    return {
        "device": settings.device,
        "device_class": settings.device_class,
        "was_enrolled": before is not None,
        **shown,
    }


def render(shown: dict[str, object], config: Path) -> str:
    """Return what ``enrol`` shows, as lines for people."""
    already = "already " if shown["was_enrolled"] else ""
    places = {
        "file": "its key is in the state folder",
        "tpm": "its key is in the TPM",
        "elsewhere": "its key is where settings say",
    }
    who = f"{shown['device']} of class {shown['device_class']}"
    until = f"until {_minute(shown['until'])}; {places[str(shown['key'])]}"
    lines = [
        f"{who} is {already}enrolled {until}.",
        f"It renews its certificate by itself from {_minute(shown['renews'])} on.",
    ]
    if shown["was_enrolled"]:
        lines.append("To replace it, give a new token with --again.")
    else:
        lines.append(f"Next: quarterdeck-agent run --config {config}")
    return "\n".join(lines)


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """Hold the state folder, or say what to do about the agent that does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(settings.state))
        except RejectedError as error:
            if error.code is not Code.DUPLICATE_IDENTITY:
                raise
            waits = not settings.identity_file.exists()
            where = f", or put the token at {settings.enrolment.token}: it looks there"
            detail = f"{error.detail}; stop it first{where if waits else ''}"
            raise RejectedError(Code.NOT_ALLOWED, detail) from error
        yield


def _already(settings: Settings, wanted: Wanted, now: datetime) -> Certificate | None:
    """Return the certificate in use, if there is no reason for another."""
    files = IdentityFiles(settings)
    try:
        used = files.load()
        if used is None and files.load_new() is not None:
            finish(settings, files)  # it was killed right before the end
            used = files.load()
    except QuarterdeckError:
        return None  # what cannot be used is replaced
    if used is None or wanted.again:
        return None
    certificate = used.certificate
    return None if now >= certificate.ends else certificate


async def _enrol(
    settings: Settings, wanted: Wanted, clock: Clock, told: Callable[[str], None]
) -> None:
    token = _token(settings, wanted)
    rng = secrets.SystemRandom()

    def connect(endpoint: Endpoint) -> Bus:
        return MqttBus(endpoint, secrets.token_hex(16), clock=clock, rng=rng)

    last = ["nothing answered"]

    def tell(sentence: str) -> None:
        if sentence != last[0]:
            told(sentence)
        last[0] = sentence

    files = IdentityFiles(settings)
    enrolment = Enrolment(settings, files, clock, rng, connect=connect, told=tell)
    try:
        async with asyncio.timeout(wanted.wait_s):
            certificate = await enrolment.run(token, tpm=wanted.tpm)
    except TimeoutError as error:
        detail = f"gave up after {wanted.wait_s:g} s: {last[0]}"
        raise TransientError(Code.TIMED_OUT, detail) from error
    if doubt := clock_doubt(certificate.begins, certificate.ends, clock.now()):
        told(f"set the clock: {doubt}")


def _token(settings: Settings, wanted: Wanted) -> str:
    """Return the token from where it was given, or from where settings say."""
    if wanted.token is not None:
        return checked_token(wanted.token.encode(), "--token")
    if wanted.token_file == Path("-"):
        return checked_token(sys.stdin.buffer.read(MAX_TOKEN_BYTES * 2), "the input")
    if wanted.token_file is not None:
        return _from_file(wanted.token_file)
    if given := os.environ.get(VARIABLE):
        return checked_token(given.encode(), VARIABLE)
    return _from_file(settings.enrolment.token)


def _from_file(path: Path) -> str:
    token = read_token(path)
    if token is None:
        detail = f"there is no token at {path}; name one with --token-file"
        raise RejectedError(Code.TOKEN_INVALID, detail)
    return token


def _minute(moment: object) -> str:
    return f"{datetime.fromisoformat(str(moment)):%Y-%m-%d %H:%M} UTC"
