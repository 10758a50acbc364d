"""Machines enrolled by a whole controller over a real broker, beside bare issuing."""

import asyncio
import random
import secrets
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from quarterdeck_agent.identity.token import asked_with
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.requests import prove
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Endpoint, Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.enrolment import CertificateReply, EnrolRequest
from quarterdeck_shared.ids import is_name
from tests.bench.table import Figure
from tests.bench.timing import in_turns
from tests.support.enrolling import CLASS, Fleet, running_fleet

MACHINES = 1000
PATIENCE_S = 110.0


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Enrol machines that share a claim, all at once and one after the other."""
    return asyncio.run(_measure(folder, 20 if quick else MACHINES, quick=quick))


async def _measure(folder: Path, count: int, *, quick: bool) -> list[Figure]:
    async with running_fleet(folder) as fleet:
        names = [f"cam-{number}" for number in range(count + 10)]
        bundles = await asyncio.to_thread(fleet.invite, *names)
        requests = [_request(*it) for it in zip(names, bundles, strict=True)]
        bus = await _claimant(fleet, bundles[0])
        line = _Line(bus)
        try:
            # one subscription for all, where each machine would have its own session
            (replies,) = topics.claim_subscribes(requests[0].claim)
            await bus.subscribe(replies, line.hear)
            alone = [await line.enrol(it) for it in requests[count:]]
            began = perf_counter()
            await asyncio.gather(*(line.enrol(it) for it in requests[:count]))
            spent = perf_counter() - began
        finally:
            await bus.close()
        issuing = _issuing(fleet, requests[0], rounds=20 if quick else 300)
    rate, bare = count / spent, 1 / issuing
    return [
        Figure(
            "enrolments a second, all at once",
            count,
            rate,
            "/s",
            "Authority.issue_device alone",
            bare,
            f"{spent:.1f} s for {count}, admitted by the broker before each answer",
        ),
        Figure(
            "enrolment of one machine: median",
            len(alone),
            sorted(alone)[len(alone) // 2] * 1e3,
            "ms",
            "Authority.issue_device alone",
            issuing * 1e3,
            "one broker reload each",
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Request:
    claim: str
    csr: bytes
    message: bytes


def _request(name: str, bundle: Path) -> _Request:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    token = (bundle / "token").read_text().strip()
    message = asked_with(token, EnrolRequest(device=name, csr=csr))
    claim = x509.load_pem_x509_certificate((bundle / "claim.pem").read_bytes())
    (common,) = claim.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert is_name(str(common.value))
    return _Request(str(common.value), csr, message)


async def _claimant(fleet: Fleet, bundle: Path) -> MqttBus:
    broker = fleet.home.settings().broker
    endpoint = Endpoint(
        broker.host,
        broker.port,
        ca=bundle / "ca.pem",
        certificate=bundle / "claim.pem",
        key=bundle / "claim.pem",
    )
    bus = MqttBus(
        endpoint, secrets.token_hex(16), clock=SystemClock(), rng=random.Random(1)
    )
    await bus.start()
    await bus.wait_connected(10)
    return bus


class _Line:
    """A factory line: machines that ask over one session."""

    def __init__(self, bus: MqttBus) -> None:
        self._bus = bus
        self._waiting: dict[str, asyncio.Future[CertificateReply]] = {}

    def hear(self, message: Message) -> None:
        """Hand an answer to the machine that waits for it."""
        waiting = self._waiting.get(message.topic)
        if waiting is not None and not waiting.done():
            waiting.set_result(CertificateReply.decode(message.payload))

    async def enrol(self, request: _Request) -> float:
        """Return the seconds until the certificate was there."""
        began, nonce = perf_counter(), secrets.token_hex(16)
        answer: asyncio.Future[CertificateReply]
        answer = asyncio.get_running_loop().create_future()
        self._waiting[topics.enrol_reply(request.claim, nonce)] = answer
        topic = topics.enrol_request(request.claim, nonce)
        await self._bus.publish(topic, request.message)
        async with asyncio.timeout(PATIENCE_S):
            reply = await answer
        assert reply.chain is not None, reply.detail
        return perf_counter() - began


def _issuing(fleet: Fleet, request: _Request, rounds: int) -> float:
    authority = Authority.open(fleet.home.authority, SystemClock())
    proven = prove(request.csr, "cam-0")
    (cost,) = in_turns(rounds, lambda: authority.issue_device(proven, CLASS, 1))
    return cost
