"""Whatever bytes come as an answer or lie on the disk, they are taken or refused."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck_agent.identity.certificate import (
    read_claim,
    read_leaf,
    verify_chain,
)
from quarterdeck_agent.identity.enrol import MAX_REPLY_BYTES, checked_token
from quarterdeck_agent.identity.key import load_key, make_key
from quarterdeck_agent.identity.openssl import OpenSsl
from quarterdeck_agent.identity.pem import MAX_PEM_BYTES, take_apart
from quarterdeck_agent.identity.request import certificate_request
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.requests import prove
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.enrolment import CertificateReply
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import NAME_PATTERN

OPENSSL = OpenSsl(program="/nothing")
KEY_PEM = make_key(tpm=False, openssl=OPENSSL)
KEY = load_key(KEY_PEM, OPENSSL)
FEW = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class World:
    def __init__(self, folder: Path) -> None:
        authority = Authority.create(folder / "authority", "test", SystemClock())
        self.anchor = authority.root_file.read_bytes()
        proven = prove(certificate_request("cam-1", KEY), "cam-1")
        self.chain = authority.issue_device(proven, "cam", 1).chain_pem

    def is_taken(self, chain: bytes) -> bool:
        """Return whether it is taken; anything but a refusal fails the test."""
        try:
            verify_chain(
                chain,
                self.anchor,
                device="cam-1",
                device_class="cam",
                public=KEY.public,
            )
        except RejectedError:
            return False
        return True


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def changed(data: bytes, seed: int) -> bytes:
    """Return ``data`` with a few bytes changed, cut out, repeated or swapped."""
    rng, made = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made))
        match rng.randrange(4):
            case 0:
                made[at] = rng.randrange(256)
            case 1:
                del made[at : at + rng.randint(1, 40)]
            case 2:
                made[at:at] = made[at : at + rng.randint(1, 400)]
            case _:
                made[at] = rng.choice(b"ABCDabcd+/=")
    return bytes(made)


@FEW
@given(seed=st.integers(min_value=0))
def test_no_changed_chain_is_taken_unless_it_says_the_same(
    world: World, seed: int
) -> None:
    chain = changed(world.chain, seed)

    if world.is_taken(chain):
        # what lies between the blocks, or behind them, changes nothing
        assert read_leaf(chain) == read_leaf(world.chain)


def test_the_chain_that_is_changed_is_taken_unchanged(world: World) -> None:
    assert world.is_taken(world.chain)


@FEW
@given(data=st.binary(max_size=600), seed=st.integers(min_value=0))
def test_no_bytes_break_a_reader(world: World, data: bytes, seed: int) -> None:
    readers: tuple[Callable[[bytes], object], ...] = (
        take_apart,
        read_leaf,
        read_claim,
        lambda hostile: load_key(hostile, OPENSSL),
        lambda hostile: CertificateReply.decode(hostile, limit=MAX_REPLY_BYTES),
    )

    for hostile in (data, changed(KEY_PEM + world.chain, seed)):
        said = [refusal(read, hostile) for read in readers]

        assert said[-1]  # none of it is an answer


def refusal(read: Callable[[bytes], object], data: bytes) -> str:
    """Return what a reader refuses ``data`` with; "" when it takes it."""
    try:
        read(data)
    except RejectedError as error:
        return error.detail
    return ""


@FEW
@given(data=st.binary(max_size=300))
def test_a_token_is_taken_or_refused_without_being_repeated(data: bytes) -> None:
    said = refusal(lambda given: checked_token(given, "the input"), data)

    assert said in {"", "the input does not hold a token"}
    if not said:
        assert 16 <= len(data.strip()) <= 128
        assert data.isascii()


@FEW
@given(device=st.from_regex(NAME_PATTERN, fullmatch=True))
def test_every_device_can_ask_for_a_certificate(device: str) -> None:
    assert prove(certificate_request(device, KEY), device).public_key == KEY.public


def test_a_file_without_an_end_is_refused_by_its_size() -> None:
    with pytest.raises(RejectedError, match="at most"):
        take_apart(b"-----BEGIN A-----\n" * MAX_PEM_BYTES)


def test_labels_without_an_end_cost_no_time() -> None:
    hostile = (b"-----BEGIN A PRIVATE KEY-----\n" * MAX_PEM_BYTES)[:MAX_PEM_BYTES]

    assert take_apart(hostile).key is None
