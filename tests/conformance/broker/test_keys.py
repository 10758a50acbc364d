"""Stolen and changing keys, through the broker, on a running agent."""

from collections.abc import Callable

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Signed

from quarterdeck_shared.codes import Code
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")


# -- the root ------------------------------------------------------------------------


async def test_one_stolen_root_key_is_not_enough(siege: Siege) -> None:
    def lower(root: Root) -> None:
        root.roles["root"].threshold = 1

    name, data = siege.next_root(lower, "root-1")
    siege.world.broker.instead[name] = data
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_one_root_key_that_signs_twice_is_not_enough(siege: Siege) -> None:
    name, data = siege.next_root(lambda _: None, "root-1", "root-1")
    siege.world.broker.instead[name] = data
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_a_root_that_hands_itself_to_other_keys_signed_by_the_old_ones_only(
    siege: Siege,
) -> None:
    new = [CryptoSigner.generate_ed25519() for _ in range(3)]
    name, data = siege.next_root(hand_to(new), "root-1", "root-2")
    siege.world.broker.instead[name] = data
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_a_root_that_hands_itself_to_other_keys_signed_by_the_new_ones_only(
    siege: Siege,
) -> None:
    new = [CryptoSigner.generate_ed25519() for _ in range(3)]
    name, data = siege.next_root(hand_to(new), extra=tuple(new))
    siege.world.broker.instead[name] = data
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_a_root_signed_by_old_and_new_keys_is_followed(siege: Siege) -> None:
    new = [CryptoSigner.generate_ed25519() for _ in range(3)]
    root = siege.next_root(hand_to(new), "root-1", "root-2", extra=tuple(new))
    siege.publish(*root)

    await siege.heals()


async def test_a_root_of_a_version_that_was_skipped(siege: Siege) -> None:
    siege.publish(*siege.next_root(lambda _: None, "root-1", "root-2"))
    _, third = siege.next_root(lambda _: None, "root-1", "root-2")
    siege.world.broker.instead["2.root.json"] = third
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID, Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_a_root_of_the_version_that_is_in_force(siege: Siege) -> None:
    same = siege.world.repository.read("1.root.json")
    siege.world.broker.instead["2.root.json"] = same
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID, Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_a_withheld_root_leaves_what_new_keys_signed_unbelieved(
    siege: Siege,
) -> None:
    siege.world.rotate("timestamp", "snapshot")
    siege.world.resign()
    siege.world.broker.instead["2.root.json"] = None
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_several_rotations_while_the_device_was_off_are_followed(
    siege: Siege,
) -> None:
    await siege.device.stop()
    targets = siege.role("targets")
    for _ in range(5):
        siege.world.rotate("timestamp", "snapshot")
    siege.world.rotate("targets")
    siege.world.resign({"targets": targets})
    siege.device.start()

    await siege.heals()
    asked = siege.world.broker.asked
    assert [f"{version}.root.json" in asked for version in range(2, 9)] == [True] * 7


# -- keys of roles -------------------------------------------------------------------


async def test_a_replaced_timestamp_key_is_followed_and_the_stolen_one_refused(
    siege: Siege,
) -> None:
    stolen = siege.world.key("timestamp")
    siege.world.rotate("timestamp")
    siege.world.resign()
    await siege.accepts()

    def newer(timestamp: Signed) -> None:
        timestamp.version += 5

    forged = siege.world.forge("timestamp.json", newer, stolen)
    siege.world.broker.instead["timestamp.json"] = forged
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_a_replaced_class_key_is_followed_and_the_stolen_one_refused(
    siege: Siege,
) -> None:
    stolen, new = siege.world.key("class-cam"), CryptoSigner.generate_ed25519()
    assignment = siege.assign()
    siege.redelegate("class-cam", new)
    await siege.accepts()
    listing = siege.role("class-cam")
    siege.world.resign({"class-cam": listing}, keys={"class-cam": [stolen]})
    await siege.send(assignment)

    await siege.refuses(Code.METADATA_INVALID)
    siege.world.resign({"class-cam": listing}, keys={"class-cam": [new]})
    await siege.heals()


async def test_a_class_role_of_threshold_two_with_one_signature(siege: Siege) -> None:
    first, second = siege.world.key("class-cam"), CryptoSigner.generate_ed25519()
    assignment = siege.assign()
    siege.redelegate("class-cam", first, second, threshold=2)
    await siege.accepts()
    listing = siege.role("class-cam")
    siege.world.resign({"class-cam": listing}, keys={"class-cam": [first]})
    await siege.send(assignment)

    await siege.refuses(Code.METADATA_INVALID)
    both = {"class-cam": [first, second]}
    siege.world.resign({"class-cam": listing}, keys=both)
    await siege.heals()


# -- fast forward --------------------------------------------------------------------


async def test_fast_forward_is_recovered_from_by_replacing_the_online_keys(
    siege: Siege,
) -> None:
    honest = siege.world.now_served()
    siege.world.resign(version=10**9)  # by a thief of both online keys
    await siege.accepts()
    siege.restore(honest)
    siege.world.serve_honestly()
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_ROLLBACK)
    siege.world.rotate("timestamp", "snapshot")
    siege.world.resign()
    await siege.heals()


async def test_versions_that_no_floor_could_hold_are_refused(siege: Siege) -> None:
    honest = siege.world.now_served()
    siege.world.resign(version=10**30)
    siege.world.serve_only(siege.world.now_served())
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    siege.restore(honest)
    siege.world.rotate("timestamp", "snapshot")
    siege.world.resign()
    await siege.heals()


async def test_fast_forward_of_the_sequence_is_recovered_from_by_a_new_director(
    siege: Siege,
) -> None:
    await siege.accepts(1 << 53)  # by a thief of the director's key
    await siege.send(siege.assign())

    await siege.refuses(Code.ASSIGNMENT_REPLAYED)
    siege.replace_director()
    await siege.heals()


# -- going back ----------------------------------------------------------------------


async def test_a_stolen_director_key_cannot_go_below_the_release_counter(
    siege: Siege,
) -> None:
    await siege.heals(20)
    back = siege.first(30)
    await siege.send(back)

    await siege.refuses(Code.RELEASE_DOWNGRADE, running="model@2")


async def test_the_class_key_may_permit_to_go_back(siege: Siege) -> None:
    await siege.heals(20)
    siege.permit_downgrade("model@1")
    await siege.send(siege.first(30))

    await siege.outcome(30, "committed")
    await siege.runs("model@1")


async def test_a_revoked_release_is_not_installed(siege: Siege) -> None:
    envelope = siege.assign()
    listing = siege.role("class-cam")
    del listing.targets["classes/cam/model-2.idx"]
    siege.world.resign({"class-cam": listing})
    await siege.send(envelope)

    await siege.refuses(Code.TARGET_UNKNOWN)


def hand_to(keys: list[CryptoSigner]) -> Callable[[Root], None]:
    """Return the change that gives the root role to other keys."""

    def change(root: Root) -> None:
        for old in tuple(root.roles["root"].keyids):
            root.revoke_key(old, "root")
        for key in keys:
            root.add_key(key.public_key, "root")

    return change
