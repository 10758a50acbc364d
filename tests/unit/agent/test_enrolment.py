"""What a machine does with whatever answers its request to be enrolled."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quarterdeck_agent.identity.certificate import Certificate
from quarterdeck_agent.identity.enrol import Enrolment
from quarterdeck_agent.identity.files import IdentityFiles
from quarterdeck_agent.settings import (
    BrokerSettings,
    EnrolmentSettings,
    Settings,
)
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.offer import read_offer
from quarterdeck_controller.identity.requests import prove
from quarterdeck_shared import topics
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Bus, Endpoint, Message
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply, EnrolRequest
from quarterdeck_shared.errors import RejectedError
from tests.support.fleet import HandClock

DEVICE, CLASS, TOKEN = "cam-1", "cam", "a-token-of-this-device"
Answers = Callable[[EnrolRequest], list[bytes]]


class Machine:
    """A machine with a bundle, on a broker where the test answers it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.create(folder / "authority", "test", SystemClock())
        self.broker = MemoryBroker()
        self.asked: list[EnrolRequest] = []
        self.settings = Settings(
            device=DEVICE,
            device_class=CLASS,
            state=folder / "state",
            broker=BrokerSettings(
                host="localhost", port=1, ca=self.authority.root_file
            ),
            enrolment=EnrolmentSettings(
                claim=folder / "claim.pem", token=folder / "token"
            ),
        )
        claim = self.authority.issue_claim("claim-1", days=1)
        self.settings.enrolment.claim.write_bytes(claim.pem)
        self.settings.enrolment.token.write_text(TOKEN)
        self.files = IdentityFiles(self.settings)

    @property
    def beside(self) -> Path:
        return self.settings.state / "identity.new.pem"

    def granted(self, request: EnrolRequest, device_class: str = CLASS) -> bytes:
        """Return the answer of a controller that lets it in."""
        proven = prove(request.csr, DEVICE)
        issued = self.authority.issue_device(proven, device_class, 1)
        return CertificateReply(chain=issued.chain_pem).encode()

    async def enrol(self, answers: Answers, clock: Clock | None = None) -> Certificate:
        """Enrol with what ``answers`` says to each request."""
        controller = MemoryBus(self.broker, "controller")
        sending: set[asyncio.Task[None]] = set()

        def hear(message: Message) -> None:
            origin = topics.parse_enrol(message.topic)
            assert origin is not None
            request = read_offer(message.payload).request
            self.asked.append(request)
            for answer in answers(request):
                topic = topics.enrol_reply(origin.claim, origin.nonce)
                sending.add(asyncio.create_task(controller.publish(topic, answer)))

        def connect(_endpoint: Endpoint) -> Bus:
            return MemoryBus(self.broker, "machine")

        await controller.subscribe(topics.enrol_any(), hear)
        await controller.start()
        enrolment = Enrolment(
            self.settings,
            self.files,
            clock or SystemClock(),
            random.Random(1),
            connect=connect,
            answer_s=0.5,
        )
        try:
            async with asyncio.timeout(20):
                return await enrolment.run(TOKEN)
        finally:
            await asyncio.gather(*sending, return_exceptions=True)
            await controller.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_what_is_no_answer_is_dropped_and_the_answer_taken(
    machine: Machine,
) -> None:
    noise = [b"{}", b"\xff" * 100, b"x" * 100_000]

    certificate = await machine.enrol(lambda it: [*noise, machine.granted(it)])

    assert certificate.device == DEVICE
    assert len(machine.asked) == 1
    assert machine.files.load() is not None
    assert not machine.settings.enrolment.token.exists()
    assert not machine.settings.enrolment.claim.exists()
    assert not machine.beside.exists()


async def test_it_asks_again_for_the_same_key_when_nothing_comes(
    machine: Machine,
) -> None:
    await machine.enrol(lambda it: [machine.granted(it)] * (len(machine.asked) > 1))

    assert len(machine.asked) == 2
    keys = {prove(it.csr, DEVICE).public_key for it in machine.asked}
    assert len(keys) == 1
    assert len({it.seal_key for it in machine.asked}) == 1


@pytest.mark.parametrize("code", [Code.STORE_BUSY, Code.DISK_FULL])
async def test_what_may_end_by_itself_is_waited_for(
    machine: Machine, code: Code
) -> None:
    held = CertificateReply(code=code, detail="not now").encode()

    await machine.enrol(
        lambda it: [machine.granted(it) if len(machine.asked) > 1 else held]
    )

    assert len(machine.asked) == 2


@pytest.mark.parametrize(
    "code", [Code.TOKEN_INVALID, Code.DEVICE_REVOKED, Code.REQUEST_UNPROVEN]
)
async def test_a_refusal_is_final_and_keeps_the_token(
    machine: Machine, code: Code
) -> None:
    refusal = CertificateReply(code=code, detail="it is so").encode()

    with pytest.raises(RejectedError, match="the controller says") as refused:
        await machine.enrol(lambda _: [refusal])

    assert refused.value.code is code
    assert len(machine.asked) == 1
    assert machine.settings.enrolment.token.exists()
    assert machine.settings.enrolment.claim.exists()


async def test_a_certificate_of_another_class_is_refused_and_its_key_forgotten(
    machine: Machine,
) -> None:
    with pytest.raises(RejectedError, match="of class 'robot'") as refused:
        await machine.enrol(lambda it: [machine.granted(it, "robot")])

    assert refused.value.code is Code.CERTIFICATE_INVALID
    assert machine.files.load() is None
    assert not machine.beside.exists()
    assert machine.settings.enrolment.token.exists()


async def test_a_clock_that_is_wrong_by_years_is_said_before_anything_is_asked(
    machine: Machine,
) -> None:
    for year in (1970, 2099):
        with pytest.raises(RejectedError, match=f"clock says {year}-") as refused:
            await machine.enrol(
                lambda it: [machine.granted(it)],
                HandClock(datetime(year, 1, 1, tzinfo=UTC)),
            )

        assert refused.value.code is Code.CERTIFICATE_INVALID
    assert not machine.asked


async def test_the_token_and_the_keys_are_in_no_log(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    await machine.enrol(lambda it: [b"noise", machine.granted(it)])

    assert TOKEN not in caplog.text
    assert "PRIVATE KEY" not in caplog.text
