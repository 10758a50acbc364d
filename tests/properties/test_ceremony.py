"""Whatever is signed by whomever: a change is complete when every threshold is met."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root, Signed, Targets

from quarterdeck_controller.repository.ceremony import lacking, with_signatures
from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.changes import Signers, change_signers
from quarterdeck_controller.repository.drafts import first, next_online
from quarterdeck_controller.repository.roles import (
    KEY_ROLES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
)
from quarterdeck_controller.repository.soundness import check_sound
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import NOW

SIGNERS = tuple(CryptoSigner.generate_ed25519() for _ in range(6))
CLASS = "class-cam"
ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP, *KEY_ROLES, CLASS)
SOME = st.sets(st.integers(0, 5), min_size=1)
MAYBE = st.sets(st.integers(0, 5))


def keys(numbers: Sequence[int] | set[int]) -> list[Key]:
    return [SIGNERS[number].public_key for number in sorted(numbers)]


def founded(of: Mapping[str, set[int]], thresholds: Mapping[str, int]) -> Chain:
    """Return a chain of version 1, signed by all keys of each role."""
    signed = first({role: keys(of[role]) for role in ROLES}, ["cam"], NOW)
    root, targets = signed[ROOT], signed[TARGETS]
    assert isinstance(root, Root)
    assert isinstance(targets, Targets)
    for role, count in thresholds.items():
        delegator = targets if role in (*KEY_ROLES, CLASS) else root
        delegator.get_delegated_role(role).threshold = count
    snapshot, timestamp = next_online(None, NOW)
    everything: dict[str, Signed] = {
        **signed,
        SNAPSHOT: snapshot,
        TIMESTAMP: timestamp,
    }
    files = {role: sign(Metadata[Any](it), of[role]) for role, it in everything.items()}
    delegated = {
        role: it
        for role, it in signed.items()
        if role not in (ROOT, TARGETS) and isinstance(it, Targets)
    }
    return Chain(root, timestamp, snapshot, targets, delegated, files)


def sign(metadata: Metadata[Any], numbers: set[int]) -> Metadata[Any]:
    for number in numbers:
        metadata.sign(SIGNERS[number], append=True)
    return metadata


def alike(numbers: set[int]) -> dict[str, set[int]]:
    return dict.fromkeys(ROLES, numbers)


@st.composite
def groups(draw: st.DrawFn) -> tuple[set[int], int]:
    numbers = draw(SOME)
    return numbers, draw(st.integers(1, len(numbers)))


@settings(max_examples=60, deadline=None)
@given(old=groups(), new=groups(), signers=MAYBE)
def test_a_root_needs_the_thresholds_of_the_old_keys_and_of_the_new(
    old: tuple[set[int], int], new: tuple[set[int], int], signers: set[int]
) -> None:
    chain = founded({**alike({0}), ROOT: old[0]}, {ROOT: old[1]})
    changed = change_signers(chain, {ROOT: Signers(keys(new[0]), new[1])}, NOW)
    root = {ROOT: Metadata[Any](changed[ROOT])}
    payload = root[ROOT].signed_bytes
    allowed = signers & (old[0] | new[0])

    grown = with_signatures(
        root, {ROOT: [SIGNERS[it].sign(payload) for it in allowed]}, chain
    )

    enough = len(signers & old[0]) >= old[1] and len(signers & new[0]) >= new[1]
    assert (lacking(grown, chain) == ()) is enough
    for lack in lacking(grown, chain):
        assert lack.need == lack.quorum.threshold - lack.have > 0
        assert not {SIGNERS[it].public_key.keyid for it in signers} & set(lack.could)


@settings(max_examples=60, deadline=None)
@given(old=groups(), new=groups())
def test_what_is_in_force_after_a_change_is_signed_by_the_keys_in_force(
    old: tuple[set[int], int], new: tuple[set[int], int]
) -> None:
    for role in (TARGETS, CLASS):
        chain = founded({**alike({0}), role: old[0]}, {role: old[1]})
        changed = change_signers(chain, {role: Signers(keys(new[0]), new[1])}, NOW)
        signed = {
            name: sign(Metadata[Any](it), set(range(6))) for name, it in changed.items()
        }

        assert lacking(signed, chain) == ()
        still = old[0] & new[0]
        assert (role in changed) is (len(still) < new[1])
        for name, it in changed.items():
            check_sound(name, it)
            assert it.version == 2


@settings(max_examples=40, deadline=None)
@given(role=st.sampled_from(ROLES), count=st.integers(-1, 8), new=MAYBE)
def test_no_role_is_ever_left_without_enough_keys(
    role: str, count: int, new: set[int]
) -> None:
    chain = founded(alike({0, 1, 2}), {})
    possible = 1 <= count <= len(new)

    try:
        changed = change_signers(chain, {role: Signers(keys(new), count)}, NOW)
    except RejectedError:
        assert not possible
        return

    assert possible
    for name, it in changed.items():
        check_sound(name, it)


@settings(max_examples=30, deadline=None)
@given(signers=SOME, repeats=st.integers(1, 4))
def test_a_signature_that_comes_twice_counts_once(
    signers: set[int], repeats: int
) -> None:
    chain = founded(alike({0, 1, 2, 3, 4, 5}), {CLASS: 6})
    changed = change_signers(chain, {CLASS: Signers(keys({0, 1, 2}), 3)}, NOW)
    metadata = {role: Metadata[Any](it) for role, it in changed.items()}
    payload = metadata[TARGETS].signed_bytes
    signatures = [SIGNERS[it].sign(payload) for it in signers] * repeats

    grown = with_signatures(metadata, {TARGETS: signatures}, chain)

    assert len(grown[TARGETS].signatures) == len(signers)
