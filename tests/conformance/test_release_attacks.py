"""Going back to an older release, and running one that was revoked.

The judgement and the repository are the real ones; the attacker holds the broker and
the director's key, and in some tests more. Only the class role can permit a device to
go back.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, Signed, Snapshot, Targets

from quarterdeck_agent.update import verify
from quarterdeck_agent.update.floor import MAX_MODELS, MAX_ROLES, Floor, FloorFile
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_shared.assignment import Assignment
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index
from quarterdeck_shared.reported import Slot
from tests.support.attacks import BUILT, World, heals, refusal
from tests.support.releases import make_index, write_variants

REASON = "the newest before model@2"


@pytest.fixture
def moved_on(world: World) -> World:
    """A device that has accepted model@2; model@1 is listed and not permitted."""
    world.release(2)
    world.permit(1, "")
    world.device().accept(world.assign(1, version=2))
    return world


def floor(world: World) -> Floor:
    return FloorFile(world.state()).load(BUILT)


def test_a_stolen_director_key_cannot_bring_an_older_release_back(
    moved_on: World,
) -> None:
    before = floor(moved_on)

    refused = refusal(moved_on.device(), moved_on.assign(2, version=1))

    assert refused is Code.RELEASE_DOWNGRADE
    assert floor(moved_on) == before
    assert heals(moved_on)


def test_a_rollback_that_the_class_role_permits_is_accepted(moved_on: World) -> None:
    moved_on.permit(1, REASON)

    accepted = moved_on.device().accept(moved_on.assign(2, version=1))

    assert accepted.index.version == 1


def test_a_permitted_rollback_does_not_lower_the_floor(moved_on: World) -> None:
    moved_on.permit(1, REASON)
    moved_on.device().accept(moved_on.assign(2, version=1))

    assert floor(moved_on).releases["model"] == 2
    moved_on.permit(1, "")
    assert refusal(moved_on.device(), moved_on.assign(3, version=1)) is (
        Code.RELEASE_DOWNGRADE
    )


def test_what_was_accepted_last_is_accepted_again_after_the_permission_was_taken(
    moved_on: World,
) -> None:
    moved_on.permit(1, REASON)
    envelope = moved_on.assign(2, version=1)
    moved_on.device().accept(envelope)
    moved_on.permit(1, "")

    assert moved_on.device().accept(envelope).redelivery


def test_the_release_that_runs_can_be_assigned_again_and_again(
    moved_on: World,
) -> None:
    for sequence in range(2, 5):
        accepted = moved_on.device().accept(moved_on.assign(sequence, version=2))

        assert accepted.index.version == 2


def test_a_device_whose_update_failed_goes_back_only_as_far_as_permitted(
    world: World,
) -> None:
    world.release(2)
    world.device().accept(world.assign(1, version=2))
    world.release(3)
    world.permit(1, "")
    world.device().accept(world.assign(2, version=3))  # it failed there, and 2 runs

    assert refusal(world.device(), world.assign(3, version=1)) is (
        Code.RELEASE_DOWNGRADE
    )
    world.permit(2, "the newest before model@3")
    assert world.device().accept(world.assign(3, version=2)).index.version == 2


def test_another_model_has_a_counter_of_its_own(world: World) -> None:
    other = write_variants(world.folder / "other", home=world.home, name="other")
    create_release(world.home, other, "other", 1, world.clock)
    world.release(2)
    world.device().accept(world.assign(1, version=2))
    variant = world.catalog.release("other@1").variants["cam"]
    assert variant.index.release < floor(world).releases["model"]

    envelope = world.assign(2, target=variant.target, release="other@1")

    assert world.device().accept(envelope).index.model == "other"
    assert set(floor(world).releases) == {"model", "other"}


def test_a_class_role_with_a_permission_that_another_key_signed_is_refused(
    moved_on: World,
) -> None:
    chain = moved_on.repository.chain()
    name = f"{chain.delegated['class-cam'].version}.class-cam.json"

    def permit(role: Signed) -> None:
        assert isinstance(role, Targets)
        for target in role.targets.values():
            target.unrecognized_fields["custom"]["downgrade"] = "let me"

    for key in (CryptoSigner.generate_ed25519(), moved_on.key("director")):
        moved_on.broker.instead[name] = moved_on.forge(name, permit, key)
        refused = refusal(moved_on.device(state="fresh"), moved_on.assign(9, version=1))
        assert refused in {Code.METADATA_INVALID, Code.TOO_LARGE}
    assert heals(moved_on)


def test_an_older_class_role_that_still_had_the_permission_is_refused(
    moved_on: World,
) -> None:
    moved_on.permit(1, REASON)
    version = moved_on.repository.chain().delegated["class-cam"].version
    moved_on.permit(1, "")
    moved_on.device().accept(moved_on.assign(2, version=2))

    def lower(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        snapshot.meta["class-cam.json"] = MetaFile(version)

    moved_on.forge_online(lower)

    assert refusal(moved_on.device(), moved_on.assign(3, version=1)) is (
        Code.METADATA_ROLLBACK
    )


@pytest.mark.parametrize("version", [1 << 54, 10**30])
def test_versions_that_no_floor_can_hold_are_refused_before_they_are_remembered(
    world: World, version: int
) -> None:
    world.device().accept(world.assign(1))
    before = floor(world)
    world.forge_online(lambda _: None, version=version)

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_INVALID
    assert floor(world) == before


def test_more_roles_than_a_floor_can_hold_are_refused_before_they_are_remembered(
    world: World,
) -> None:
    world.device().accept(world.assign(1))
    before = floor(world)

    def flood(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        snapshot.meta |= {f"{it:x}.json": MetaFile(1) for it in range(MAX_ROLES)}

    world.forge_online(flood)

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_INVALID
    assert floor(world) == before


# -- the counters of many models -------------------------------------------------------


def offered(index: Index) -> verify.Verified:
    assignment = Assignment.model_validate(
        {
            "device": "cam-1",
            "device_class": "cam",
            "sequence": 5,
            "issued": BUILT,
            "expires": BUILT,
            "release": f"{index.model}@{index.version}",
            "target": {
                "path": f"classes/cam/{index.model}-1.idx",
                "length": 1,
                "sha256": "a" * 64,
            },
        }
    )
    return verify.Verified(assignment, "b" * 64, ())


def full_floor() -> Floor:
    return Floor(
        generation=3,
        time=BUILT,
        releases={f"m-{number}": number + 1 for number in range(MAX_MODELS)},
    )


def test_models_that_are_listed_no_more_make_room_for_another() -> None:
    index = make_index()
    still = frozenset(f"m-{number}" for number in range(10))

    raised = verify.accepted(full_floor(), offered(index), index, still)

    assert set(raised.releases) == still | {"model"}


def test_one_model_too_many_is_refused_and_none_is_forgotten() -> None:
    index = make_index()
    still = frozenset(full_floor().releases)

    with pytest.raises(RejectedError) as caught:
        verify.accepted(full_floor(), offered(index), index, still)

    assert caught.value.code is Code.TOO_LARGE


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_a_counter_only_ever_rises(counters: list[int]) -> None:
    floor = Floor(generation=0, time=BUILT)
    for counter in counters:
        index = make_index(release=counter)
        raised = verify.accepted(floor, offered(index), index, frozenset())

        assert raised.releases["model"] == max(counter, floor.releases.get("model", 0))
        floor = raised


# -- revoked ---------------------------------------------------------------------------


def revoke(world: World, version: int) -> None:
    role = world.repository.chain().delegated["class-cam"]
    path = world.catalog.release(f"model@{version}").variants["cam"].target.path
    del role.targets[path]
    world.resign({"class-cam": role})


def runs(world: World, version: int) -> Slot:
    artifact = world.catalog.release(f"model@{version}").variants["cam"].artifact
    return Slot(digest=artifact, release=f"model@{version}")


def test_a_device_notices_once_that_what_it_runs_was_revoked(world: World) -> None:
    noticed: list[Code] = []
    slot = runs(world, 1)
    device = world.device(
        running=slot, notice=lambda code, _detail: noticed.append(code)
    )
    FloorFile(world.state()).save(Floor(generation=0, time=BUILT))
    device.refresh()
    assert noticed == []

    envelope = world.assign(1)
    revoke(world, 1)
    for _ in range(3):
        device.refresh()

    assert noticed == [Code.TARGET_REVOKED]
    assert refusal(device, envelope) is Code.TARGET_UNKNOWN


def test_another_artifact_under_the_same_name_is_a_revocation_too(
    world: World,
) -> None:
    noticed: list[Code] = []
    slot = runs(world, 1).model_copy(update={"digest": "e" * 64})
    FloorFile(world.state()).save(Floor(generation=0, time=BUILT))
    device = world.device(
        running=slot, notice=lambda code, _detail: noticed.append(code)
    )

    device.refresh()

    assert noticed == [Code.TARGET_REVOKED]


def test_a_refresh_alone_raises_the_floor_and_keeps_older_metadata_out(
    world: World,
) -> None:
    old = world.now_served()
    world.release(2)
    device = world.device()

    device.refresh()

    world.serve_only(old)
    with pytest.raises(RejectedError) as caught:
        device.refresh()
    assert caught.value.code is Code.METADATA_ROLLBACK
