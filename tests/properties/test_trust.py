"""Whatever a broker makes of signed bytes, nothing else is ever accepted."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import TargetFile

from quarterdeck_agent.update import verify
from quarterdeck_agent.update.trust import Accepted
from quarterdeck_controller.repository.timekeeper import Timekeeper
from quarterdeck_shared.assignment import Target
from quarterdeck_shared.errors import QuarterdeckError
from tests.support.attacks import World

NEVER = datetime(2036, 1, 1, tzinfo=UTC)
FEW = settings(max_examples=80, deadline=None)
COUNTER = itertools.count()

mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat"]),
        st.integers(0, 1 << 16),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with TemporaryDirectory() as folder:
        yield World(Path(folder))


def mutated(data: bytes, steps: list[tuple[str, int, bytes]]) -> bytes:
    for kind, where, noise in steps:
        at = where % (len(data) + 1)
        if kind == "flip":
            data = data[:at] + noise + data[at + len(noise) :]
        elif kind == "cut":
            data = data[:at] + data[at + len(noise) :]
        elif kind == "insert":
            data = data[:at] + noise + data[at:]
        else:
            data = data[:at] + data[at : at + 64] * 2 + data[at + 64 :]
    return data


def judged(world: World, envelope: bytes) -> Accepted | None:
    """Return what a device that knows nothing yet accepts, or None."""
    device = world.device(state=f"fresh-{next(COUNTER)}")
    try:
        return device.accept(envelope)
    except QuarterdeckError:
        return None


@FEW
@given(mutations)
def test_a_changed_envelope_is_refused_or_says_the_same(
    world: World, steps: list[tuple[str, int, bytes]]
) -> None:
    honest = world.assign(1)

    accepted = judged(world, mutated(honest, steps))

    assert accepted is None or accepted.assignment == world.assignment(1)


@FEW
@given(
    st.sampled_from(
        ["timestamp.json", "2.snapshot.json", "1.targets.json", "2.class-cam.json"]
    ),
    mutations,
)
def test_changed_metadata_is_refused_or_says_the_same(
    world: World, name: str, steps: list[tuple[str, int, bytes]]
) -> None:
    data = world.repository.read(name)
    assert data is not None
    world.broker.instead = {name: mutated(data, steps)}

    accepted = judged(world, world.assign(1))

    artifact = world.catalog.release("model@1").variants["cam"].artifact
    assert accepted is None or accepted.artifact == artifact


@FEW
@given(st.binary(max_size=300))
def test_noise_is_never_accepted(world: World, noise: bytes) -> None:
    assert judged(world, noise) is None


@FEW
@given(mutations, st.integers(0, 1 << 30))
def test_a_changed_answer_never_tells_another_time(
    world: World, steps: list[tuple[str, int, bytes]], later: int
) -> None:
    keeper = Timekeeper(world.repository, world.clock)
    targets = world.repository.chain().targets
    nonce = f"{later:032x}"
    honest = keeper.answer(nonce)
    assert honest is not None
    try:
        told = verify.time_told(
            mutated(honest, steps), nonce, verify.Signatory("time", targets), NEVER
        )
    except QuarterdeckError:
        return

    assert told == world.clock.now()


@FEW
@given(st.binary(max_size=300))
def test_noise_never_tells_the_time(world: World, noise: bytes) -> None:
    signatory = verify.Signatory("time", world.repository.chain().targets)

    with pytest.raises(QuarterdeckError):
        verify.time_told(noise, "ab" * 16, signatory, NEVER)


@FEW
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["v", "release", "created", "downgrade", "x"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_is_signed_beside_an_index_is_understood_or_refused(
    custom: object,
) -> None:
    target = Target(path="classes/cam/model-1.idx", length=1, sha256="a" * 64)
    file = TargetFile(1, {"sha256": "a" * 64}, target.path, {"custom": custom})
    try:
        listed = verify.listed(target, file)
    except QuarterdeckError:
        return

    assert listed.custom.release >= 1
