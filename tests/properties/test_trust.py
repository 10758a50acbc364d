"""Whatever a broker makes of signed bytes, nothing else is ever accepted."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_agent.update.trust import Accepted
from quarterdeck_shared.errors import QuarterdeckError
from tests.support.attacks import World

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
