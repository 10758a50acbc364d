"""Slow retrieval and other attacks that take their time, all at once on devices.

They are begun together, one device each, when the first test asks for them; each test
then looks at what became of its device.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from quarterdeck_controller.repository.server import replies
from quarterdeck_shared.codes import Code
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.index import Limits
from quarterdeck_shared.metadata import PIECE_BYTES, MetadataReply, MetadataRequest
from tests.support.brokers import until
from tests.support.hostile import Answer, Ground, Pieces
from tests.support.installed import endless_model, golden_vectors
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")

GIVES_UP_S = 75.0
SPOILT = "2.root.json"
"""What every device asks for first."""

Reply = Callable[[MetadataRequest], AsyncIterator[bytes]]


async def drips(request: MetadataRequest) -> AsyncIterator[bytes]:
    """Send a piece a second without end, each of the right size."""
    for piece in range(600):
        yield _piece(request, piece, bytes(PIECE_BYTES))
        await asyncio.sleep(1)


async def crumbles(request: MetadataRequest) -> AsyncIterator[bytes]:
    """Send a byte at a time."""
    for piece in range(600):
        yield _piece(request, piece, b"{")


async def stalls(request: MetadataRequest) -> AsyncIterator[bytes]:
    """Send the beginning and nothing more."""
    yield _piece(request, 0, bytes(PIECE_BYTES))
    await asyncio.sleep(600)


async def is_silent(_request: MetadataRequest) -> AsyncIterator[bytes]:
    """Send nothing."""
    await asyncio.sleep(600)
    yield b""


async def shuffles(request: MetadataRequest) -> AsyncIterator[bytes]:
    """Send pieces in an order that leads nowhere."""
    for piece in (3, 1, 2, 0, 7, 5):
        yield _piece(request, piece, bytes(PIECE_BYTES))


async def floods(request: MetadataRequest) -> AsyncIterator[bytes]:
    """Send more pieces than any file may have, as fast as the broker takes them."""
    for piece in range(300):
        yield _piece(request, piece, bytes(PIECE_BYTES))


async def answers_another(request: MetadataRequest) -> AsyncIterator[bytes]:
    """Answer, but not what was asked."""
    other = request.model_copy(update={"id": request.id ^ 1})
    yield _piece(other, 0, b"{}", last=True)


async def talks_rubbish(request: MetadataRequest) -> AsyncIterator[bytes]:
    """Send what is no reply at all."""
    for size in (0, 1, 17, 18, 1000, PIECE_BYTES + 19):
        yield bytes([size % 256]) * size
    yield request.encode()


ATTACKS: tuple[Reply, ...] = (
    drips,
    crumbles,
    stalls,
    is_silent,
    shuffles,
    floods,
    answers_another,
    talks_rubbish,
)


@dataclass
class Began:
    """The devices under attack, by the attack's name."""

    sieges: dict[str, Siege]
    endless: Siege


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def began(ground: Ground) -> AsyncIterator[Began]:
    sieges = {}
    for attack in ATTACKS:
        siege = sieges[attack.__name__] = Siege(ground, await ground.take())
        siege.device.answer = _only(siege, attack)
        await siege.send(siege.assign())
    endless = Siege(ground, await ground.take())
    limits = Limits(latency_ms=1, memory_mb=2048)
    vectors = golden_vectors(0)
    await endless.send(endless.list_model(endless_model(), vectors, limits=limits))
    yield Began(sieges, endless)
    for siege in (*sieges.values(), endless):
        siege.device.end()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda it: it.__name__)
async def test_slow_retrieval_ends_and_changes_nothing(
    began: Began, attack: Reply
) -> None:
    siege = began.sieges[attack.__name__]

    await until(
        lambda: "assignment not accepted" in siege.device.log() or told(siege),
        "the end of the attempt",
        timeout_s=GIVES_UP_S,
    )
    await siege.runs("model@1")
    assert {it.code for it in told(siege)} <= {Code.TOO_LARGE}
    assert "Traceback" not in siege.device.log()
    await siege.heals()


async def test_a_model_that_never_answers_is_given_up(began: Began) -> None:
    siege = began.endless

    await until(
        lambda: siege.reported.update and siege.update.outcome == "rolled_back",
        "the end of the endless model",
        timeout_s=GIVES_UP_S,
    )

    assert siege.update.code is Code.WORKER_HUNG
    await siege.runs("model@1")
    assert [it.code for it in siege.reported.quarantine] == [Code.WORKER_HUNG]
    await siege.heals()


def told(siege: Siege) -> list[StepEvent]:
    """Return what the device has refused."""
    return [it for it in siege.device.events if it.code is not None]


def _only(siege: Siege, attack: Reply) -> Answer:
    """Attack the answer for one file; answer honestly for the others."""

    def answer(request: MetadataRequest) -> Pieces:
        if request.name == SPOILT:
            return attack(request)
        data = siege.world.broker.answer(request.name)
        return [reply.encode() for reply in replies(request.id, data)]

    return answer


def _piece(
    request: MetadataRequest, piece: int, data: bytes, *, last: bool = False
) -> bytes:
    reply = MetadataReply(request.id, found=True, piece=piece, last=last, data=data)
    return reply.encode()
