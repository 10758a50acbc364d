"""Attacks on the signed metadata and on the time, and what the device answers.

The judgement and the repository are the real ones; the attacker holds the broker, and
in some tests keys. Each refusal must carry its code, and must leave the device able to
accept the honest assignment afterwards.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets
from tuf.ngclient.updater import Updater

from quarterdeck_agent.update.floor import FloorFile
from quarterdeck_agent.update.trust import Accepted
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError
from tests.support.attacks import BUILT, World, heals, refusal

# -- what must work ------------------------------------------------------------------


def test_an_honest_assignment_is_accepted_with_its_index(world: World) -> None:
    accepted = world.device().accept(world.assign(1))

    variant = world.catalog.release("model@1").variants["cam"]
    assert accepted.artifact == variant.artifact
    assert accepted.index == variant.index
    assert accepted.assignment.sequence == 1
    assert not accepted.redelivery


def test_a_redelivery_fetches_only_the_timestamp_and_asks_for_the_time(
    world: World,
) -> None:
    envelope = world.assign(1)
    world.device().accept(envelope)
    world.broker.asked.clear()

    accepted = world.device().accept(envelope)

    assert accepted.redelivery
    *fetched, asked = world.broker.asked
    assert fetched == ["2.root.json", "timestamp.json"]
    assert asked.startswith("time/")


def test_each_device_accepts_only_its_own_classes_releases(world: World) -> None:
    variant = world.catalog.release("model@1").variants["gateway"]
    envelope = world.assign(
        device="gw-1", device_class="gateway", target=variant.target
    )

    accepted = world.device("gw-1", "gateway").accept(envelope)

    assert accepted.index.device_class == "gateway"


# -- arbitrary software --------------------------------------------------------------


def index_name(world: World) -> str:
    target = world.catalog.release("model@1").variants["cam"].target
    folder, _, name = target.path.rpartition("/")
    return f"targets/{folder}/{target.sha256}.{name}"


def test_arbitrary_software_another_index_under_the_signed_name(world: World) -> None:
    data = world.repository.read(index_name(world))
    assert data is not None
    world.broker.instead[index_name(world)] = data.replace(b'"dynamic"', b'"evil..."')

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID
    assert heals(world)


def test_arbitrary_software_a_class_role_signed_by_the_attacker(world: World) -> None:
    version = world.repository.chain().delegated["class-cam"].version
    name = f"{version}.class-cam.json"
    thief = CryptoSigner.generate_ed25519()
    world.broker.instead[name] = world.forge(name, lambda _: None, thief)

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID
    assert heals(world)


def test_arbitrary_software_a_root_signed_by_the_attacker(world: World) -> None:
    thief = CryptoSigner.generate_ed25519()

    def take_over(root: Signed) -> None:
        root.version = 2

    forged = world.forge("1.root.json", take_over, thief)
    world.broker.instead["2.root.json"] = forged

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID
    assert heals(world)


def test_one_stolen_root_key_is_not_enough(world: World) -> None:
    def lower(root: Signed) -> None:
        root.version = 2
        assert isinstance(root, Root)
        root.roles["root"].threshold = 1

    forged = world.forge("1.root.json", lower, *world.root_keys("root-1"))
    world.broker.instead["2.root.json"] = forged

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID
    assert heals(world)


def test_a_stolen_class_key_alone_changes_nothing(world: World) -> None:
    version = world.repository.chain().delegated["class-cam"].version
    name = f"{version}.class-cam.json"

    def empty(role: Signed) -> None:
        assert isinstance(role, Targets)
        role.targets = {}

    forged = world.forge(name, empty, world.key("class-cam"))
    world.broker.instead[name] = forged

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID
    assert heals(world)


def test_a_stolen_timestamp_key_cannot_sign_a_snapshot(world: World) -> None:
    version = world.repository.chain().snapshot.version
    name = f"{version}.snapshot.json"
    forged = world.forge(name, lambda _: None, world.key("timestamp"))
    world.broker.instead[name] = forged
    world.forge_timestamp(forged, version)

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID


# -- rollback ------------------------------------------------------------------------


def test_rollback_of_the_timestamp(world: World) -> None:
    old = world.now_served()
    world.release(2)
    world.device().accept(world.assign(1, version=2))
    world.serve_only(old)

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_ROLLBACK
    assert heals(world)


def test_rollback_of_the_snapshot_with_a_stolen_timestamp_key(world: World) -> None:
    old = world.repository.chain().snapshot.version
    snapshot = world.repository.read(f"{old}.snapshot.json")
    assert snapshot is not None
    world.release(2)
    world.device().accept(world.assign(1, version=2))
    world.forge_timestamp(snapshot, old)

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_ROLLBACK


@pytest.mark.parametrize("role", ["targets", "class-cam", "director"])
def test_rollback_of_a_role_with_stolen_online_keys(world: World, role: str) -> None:
    world.clock.forward(days=100)
    world.repository.renew(world.clock.now())
    world.device().accept(world.assign(1))

    def lower(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        snapshot.meta[f"{role}.json"] = MetaFile(1)

    world.forge_online(lower)

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_ROLLBACK


def test_a_role_cannot_be_dropped_from_the_snapshot(world: World) -> None:
    world.device().accept(world.assign(1))

    def drop(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        del snapshot.meta["class-gateway.json"]

    world.forge_online(drop)

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_INVALID


def test_rollback_of_the_root_after_the_cache_was_lost(world: World) -> None:
    world.rotate()
    world.device().accept(world.assign(1))
    for file in (world.state() / "metadata" / "root_history").iterdir():
        file.write_bytes(b"")
    world.broker.instead["2.root.json"] = None

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_ROLLBACK
    assert heals(world)


# -- power cuts (all of them are in tests/crash/test_trust.py) -------------------------


def test_a_lost_cache_is_fetched_again(world: World) -> None:
    world.device().accept(world.assign(1))
    for file in (world.state() / "metadata").glob("*.json"):
        file.unlink()

    assert world.device().accept(world.assign(2)).assignment.sequence == 2


@pytest.mark.parametrize("name", ["floor.json", "floor.copy.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_one_damaged_copy_of_the_floor_is_mended(
    world: World, name: str, damage: bytes | None
) -> None:
    old = world.now_served()
    world.release(2)
    world.device().accept(world.assign(1, version=2))
    file = world.state() / name
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)
    world.serve_only(old)
    for cached in (world.state() / "metadata").glob("*.json"):
        cached.unlink()

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_ROLLBACK
    assert file.stat().st_size > 64
    assert heals(world)


def test_a_floor_of_which_no_copy_can_be_read_refuses_everything(
    world: World,
) -> None:
    world.device().accept(world.assign(1))
    for file in world.state().glob("floor*"):
        file.write_bytes(file.read_bytes()[:-3])

    assert refusal(world.device(), world.assign(2)) is Code.FLOOR_DAMAGED


def test_a_sequence_is_remembered_when_the_power_goes_at_once(world: World) -> None:
    world.device().accept(world.assign(7))

    floor = FloorFile(world.state()).load(BUILT)

    assert floor.sequence == 7


# -- freeze and time -----------------------------------------------------------------


def test_freeze_an_expired_timestamp_is_refused(world: World) -> None:
    world.device().accept(world.assign(1))
    world.clock.forward(days=2)

    assert refusal(world.device(), world.assign(2)) is Code.METADATA_EXPIRED
    world.repository.renew(world.clock.now())
    assert heals(world)


def test_freeze_a_clock_that_is_set_back_does_not_help(world: World) -> None:
    old = world.now_served()
    world.clock.forward(days=2)
    world.repository.renew(world.clock.now())
    world.device().accept(world.assign(1))
    world.clock.time = datetime(1970, 1, 1, tzinfo=UTC)
    world.serve_only(old)

    envelope = world.assign(2, expires=NEVER)

    assert refusal(world.device(), envelope) is Code.METADATA_ROLLBACK


NEVER = datetime(2036, 1, 1, tzinfo=UTC)


def test_the_floor_of_time_alone_refuses_expired_metadata(world: World) -> None:
    old = world.now_served()
    floor_file = FloorFile(world.state())
    floor = floor_file.load(BUILT)
    later = world.clock.now() + timedelta(days=2)
    floor_file.save(floor.model_copy(update={"time": later}))
    world.serve_only(old)

    assert refusal(world.device(), world.assign(1)) is Code.METADATA_EXPIRED


def test_the_floor_of_time_is_raised_by_signed_time_only(world: World) -> None:
    signed_at = world.clock.now()
    world.clock.forward(hours=20)

    world.device().accept(world.assign(1))

    assert FloorFile(world.state()).load(BUILT).time == signed_at


def test_without_a_clock_an_honest_assignment_is_accepted(world: World) -> None:
    envelope = world.assign(1)
    world.clock.time = datetime(1970, 1, 1, tzinfo=UTC)

    assert world.device().accept(envelope).assignment.sequence == 1


def test_without_a_clock_an_assignment_that_expired_before_the_signed_time_is_refused(
    world: World,
) -> None:
    envelope = world.assign(1)
    world.clock.forward(days=15)
    world.repository.renew(world.clock.now())
    world.clock.time = datetime(1970, 1, 1, tzinfo=UTC)

    assert refusal(world.device(), envelope) is Code.ASSIGNMENT_EXPIRED


def test_a_stolen_timestamp_key_cannot_move_the_time_past_what_others_signed(
    world: World,
) -> None:
    def hurry(timestamp: Signed) -> None:
        timestamp.version += 1
        timestamp.expires = NEVER
        timestamp.unrecognized_fields["x-issued"] = "2035-01-01T00:00:00Z"

    forged = world.forge("timestamp.json", hurry, world.key("timestamp"))
    world.broker.instead["timestamp.json"] = forged

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID
    assert FloorFile(world.state()).load(BUILT).time == BUILT


# -- mix and match, endless data, withholding -----------------------------------------


def test_mix_and_match_a_new_snapshot_with_an_old_class_role(world: World) -> None:
    before = world.repository.chain().delegated["class-cam"].version
    old = world.repository.read(f"{before}.class-cam.json")
    world.release(2)
    world.broker.instead[f"{before + 1}.class-cam.json"] = old

    refused = refusal(world.device(), world.assign(1, version=2))

    assert refused is Code.METADATA_INVALID
    assert heals(world)


def test_mix_and_match_a_new_timestamp_with_an_old_snapshot(world: World) -> None:
    before = world.repository.chain().snapshot.version
    old = world.repository.read(f"{before}.snapshot.json")
    world.release(2)
    world.broker.instead[f"{before + 1}.snapshot.json"] = old

    assert refusal(world.device(), world.assign()) is Code.METADATA_INVALID
    assert heals(world)


@pytest.mark.parametrize(
    "name",
    [
        "2.root.json",
        "timestamp.json",
        "2.snapshot.json",
        "1.targets.json",
        "2.class-cam.json",
    ],
)
def test_endless_data_is_cut_off(world: World, name: str) -> None:
    data = world.repository.read(name) or b"{"
    world.broker.instead[name] = data + b" " * (8 << 20)

    assert refusal(world.device(), world.assign()) is Code.TOO_LARGE
    assert heals(world)


def test_endless_data_an_index_longer_than_signed_is_cut_off(world: World) -> None:
    data = world.repository.read(index_name(world))
    assert data is not None
    world.broker.instead[index_name(world)] = data + b" " * 1000

    assert refusal(world.device(), world.assign()) is Code.TOO_LARGE
    assert heals(world)


@pytest.mark.parametrize(
    "name", ["timestamp.json", "2.snapshot.json", "1.targets.json", "2.class-cam.json"]
)
def test_withheld_metadata_is_tried_again_later(world: World, name: str) -> None:
    world.broker.instead[name] = None

    with pytest.raises(TransientError) as caught:
        world.device().accept(world.assign())

    assert caught.value.code is Code.NOT_FOUND
    assert heals(world)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 3000, b"\xff\xfe", b"null"])
@pytest.mark.parametrize(
    "name", ["timestamp.json", "2.snapshot.json", "1.targets.json", "2.class-cam.json"]
)
def test_rubbish_for_metadata_is_refused(
    world: World, name: str, damage: bytes
) -> None:
    world.broker.instead[name] = damage

    assert refusal(world.device(), world.assign()) in {
        Code.METADATA_INVALID,
        Code.TOO_LARGE,
    }
    assert heals(world)


# -- keys that change ----------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_keys_that_change_while_a_device_reads_raise_no_alarm(
    world: World, role: str
) -> None:
    def change() -> None:
        targets = world.repository.chain().targets
        world.rotate(role)
        world.resign({"targets": targets})

    assert isinstance(world.device().accept(world.assign(1)), Accepted)
    read_while_it_changes(world, change)

    assert isinstance(world.device().accept(world.assign(2)), Accepted)
    assert world.broker.asked.count("timestamp.json") == 2


def read_while_it_changes(world: World, change: Callable[[], None]) -> None:
    """Have ``change`` happen when a device has read the root and no more."""
    pending = [change]

    def read(name: str) -> bytes | None:
        if name == "timestamp.json" and pending:
            pending.pop()()
        return world.repository.read(name)

    world.broker.asked.clear()
    world.broker.serve(read)


def test_what_nobody_signed_is_read_twice_at_most(world: World) -> None:
    thief = CryptoSigner.generate_ed25519()
    forged = world.forge("timestamp.json", lambda _: None, thief)
    envelope = world.assign()
    world.broker.instead["timestamp.json"] = forged

    assert refusal(world.device(), envelope) is Code.METADATA_INVALID
    assert world.broker.asked.count("timestamp.json") == 2
    assert heals(world)


def test_a_rotated_timestamp_key_is_followed_and_the_old_one_refused(
    world: World,
) -> None:
    world.device().accept(world.assign(1))
    thief = world.key("timestamp")
    world.rotate("timestamp")
    world.resign()
    world.device().accept(world.assign(2))

    def raise_version(timestamp: Signed) -> None:
        timestamp.version += 1

    forged = world.forge("timestamp.json", raise_version, thief)
    world.broker.instead["timestamp.json"] = forged

    assert refusal(world.device(), world.assign(3)) is Code.METADATA_INVALID
    assert heals(world)


def test_a_device_that_was_offline_across_several_root_rotations_catches_up(
    world: World,
) -> None:
    world.device().accept(world.assign(1))
    targets = world.repository.chain().targets
    for role in ("timestamp", "snapshot", "targets", "timestamp", "snapshot"):
        world.rotate(role)
    world.resign({"targets": targets})
    world.clock.forward(days=3)
    world.repository.renew(world.clock.now())

    accepted = world.device().accept(world.assign(2))

    assert accepted.assignment.sequence == 2
    assert FloorFile(world.state()).load(BUILT).root == 6


def test_a_skipped_root_version_is_refused(world: World) -> None:
    world.rotate("timestamp")
    world.rotate("timestamp")
    world.resign()
    world.broker.instead["2.root.json"] = world.repository.read("3.root.json")

    assert refusal(world.device(), world.assign(1)) is Code.METADATA_ROLLBACK
    assert heals(world)


def test_fast_forward_is_healed_by_new_online_keys(world: World) -> None:
    def nothing(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)

    world.forge_online(nothing, version=2_000_000_000)
    world.device().accept(world.assign(1))
    world.serve_honestly()
    assert refusal(world.device(), world.assign(2)) is Code.METADATA_ROLLBACK

    world.rotate("timestamp", "snapshot")
    world.resign()

    assert world.device().accept(world.assign(3)).assignment.sequence == 3


def test_the_library_still_has_the_attribute_that_holds_the_reference_time(
    world: World,
) -> None:
    cache = world.folder / "cache"
    cache.mkdir()
    updater = Updater(str(cache), "/", fetcher=world.broker, bootstrap=world.root)

    assert isinstance(updater._trusted_set.reference_time, datetime)
