"""Attacks on the signed repository, through the broker, on a running agent."""

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets

from quarterdeck_shared.codes import Code
from tests.support.hostile import ago
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROLES = ("timestamp", "snapshot", "targets", "class-cam")


# -- arbitrary software --------------------------------------------------------------


async def test_arbitrary_software_another_index_under_the_signed_name(
    siege: Siege,
) -> None:
    name = siege.index_name()
    data = siege.world.repository.read(name)
    assert data is not None
    siege.world.broker.instead[name] = data.replace(b'"dynamic"', b'"evil..."')
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_arbitrary_software_the_index_of_another_release(siege: Siege) -> None:
    other = siege.world.repository.read(siege.index_name("model@3"))
    siege.world.broker.instead[siege.index_name()] = other
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID, Code.TOO_LARGE)
    await siege.heals()


@pytest.mark.parametrize("role", ROLES)
async def test_arbitrary_software_a_role_signed_by_the_attacker(
    siege: Siege, role: str
) -> None:
    await siege.renewed()
    name, thief = siege.current(role), CryptoSigner.generate_ed25519()
    forged = siege.world.forge(name, lambda _: None, thief)
    siege.world.broker.instead[name] = forged
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.hears()


async def test_arbitrary_software_a_root_signed_by_the_attacker(siege: Siege) -> None:
    thief = CryptoSigner.generate_ed25519()
    name, data = siege.next_root(lambda _: None, extra=(thief, thief))
    siege.world.broker.instead[name] = data
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


@pytest.mark.parametrize("role", ["targets", "class-cam"])
async def test_unsigned_metadata(siege: Siege, role: str) -> None:
    await siege.renewed()
    name = siege.current(role)
    siege.world.broker.instead[name] = siege.world.forge(name, lambda _: None)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.hears()


async def test_metadata_of_one_role_under_the_name_of_another(siege: Siege) -> None:
    await siege.renewed()
    other = siege.world.repository.read(siege.current("class-gateway"))
    siege.world.broker.instead[siege.current("class-cam")] = other
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID, Code.TOO_LARGE)
    await siege.heals()


# -- rollback ------------------------------------------------------------------------


async def test_rollback_of_the_whole_repository(siege: Siege) -> None:
    siege.world.serve_only(siege.ground.old)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_rollback_of_the_timestamp(siege: Siege) -> None:
    old = siege.world.repository.read("timestamp.json")
    await siege.renewed()
    await siege.accepts()
    siege.world.broker.instead["timestamp.json"] = old
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_rollback_of_the_snapshot_with_a_stolen_timestamp_key(
    siege: Siege,
) -> None:
    name = siege.current("snapshot")
    old = siege.world.repository.read(name)
    assert old is not None
    await siege.renewed()
    await siege.accepts()
    siege.world.forge_timestamp(old, int(name.partition(".")[0]))
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.recovers("timestamp")


@pytest.mark.parametrize("role", ["targets", "class-cam", "director"])
async def test_rollback_of_a_role_with_both_online_keys(
    siege: Siege, role: str
) -> None:
    await siege.renewed()
    await siege.accepts()

    def lower(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        snapshot.meta[f"{role}.json"] = MetaFile(1)

    siege.world.forge_online(lower)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.recovers("timestamp", "snapshot")


async def test_rollback_of_the_root_after_its_history_was_lost(siege: Siege) -> None:
    siege.publish(*siege.next_root(lambda _: None, "root-1", "root-2"))
    await siege.accepts()
    await siege.device.stop()
    for file in (siege.device.state / "trust/metadata/root_history").iterdir():
        file.write_bytes(b"")
    siege.world.broker.instead["2.root.json"] = None
    await siege.send(siege.assign())
    siege.device.start()

    await siege.refuses(Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_a_role_cannot_be_dropped_from_the_snapshot(siege: Siege) -> None:
    def drop(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        del snapshot.meta["class-gateway.json"]

    siege.world.forge_online(drop)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.recovers("timestamp", "snapshot")


# -- freeze --------------------------------------------------------------------------


async def test_freeze_an_expired_timestamp(siege: Siege) -> None:
    def expire(role: Signed) -> None:
        role.version += 1
        role.expires = ago(hours=1)

    key = siege.world.key("timestamp")
    forged = siege.world.forge("timestamp.json", expire, key)
    siege.world.broker.instead["timestamp.json"] = forged
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_EXPIRED)
    siege.world.resign()
    siege.world.resign()
    await siege.heals()


async def test_freeze_an_expired_snapshot(siege: Siege) -> None:
    def expire(role: Signed) -> None:
        role.expires = ago(hours=1)

    siege.world.forge_online(expire)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_EXPIRED)
    siege.world.resign()
    siege.world.resign()
    await siege.heals()


@pytest.mark.parametrize("role", ["targets", "class-cam"])
async def test_freeze_an_expired_role(siege: Siege, role: str) -> None:
    expired = siege.role(role)
    expired.expires = ago(hours=1)
    siege.world.resign({role: expired})
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_EXPIRED)
    renewed = siege.role(role)
    renewed.expires = ago(days=-30)
    siege.world.resign({role: renewed})
    await siege.hears()


async def test_freeze_an_expired_root(siege: Siege) -> None:
    def expire(root: Root) -> None:
        root.expires = ago(hours=1)

    siege.publish(*siege.next_root(expire, "root-1", "root-2"))
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_EXPIRED)

    def renew(root: Root) -> None:
        root.expires = ago(days=-365)

    siege.publish(*siege.next_root(renew, "root-1", "root-3"))
    await siege.heals()


async def test_freeze_a_release_that_is_kept_from_the_device(siege: Siege) -> None:
    frozen = siege.world.now_served()
    target = siege.listed_anew("model@3", version=9)
    siege.world.serve_only(frozen)
    await siege.send(siege.assign(target=target, release="model@9"))

    await siege.refuses(Code.TARGET_UNKNOWN)
    await siege.heals()


# -- mix and match -------------------------------------------------------------------


async def test_mix_and_match_a_new_snapshot_with_an_old_class_role(
    siege: Siege,
) -> None:
    old = siege.world.repository.read(siege.current("class-cam"))
    await siege.renewed()
    siege.world.broker.instead[siege.current("class-cam")] = old
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_mix_and_match_a_new_timestamp_with_an_old_snapshot(
    siege: Siege,
) -> None:
    await siege.renewed()
    old = siege.world.repository.read(siege.current("snapshot"))
    await siege.renewed()
    siege.world.broker.instead[siege.current("snapshot")] = old
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.heals()


async def test_mix_and_match_new_targets_with_an_older_snapshot(siege: Siege) -> None:
    older = siege.current("targets")
    await siege.renewed()
    newer = siege.world.repository.read(siege.current("targets"))
    files = siege.world.now_served() | siege.ground.old
    files[older] = newer or b""
    await siege.device.stop()
    for file in (siege.device.state / "trust/metadata").glob("*.json"):
        file.unlink()
    siege.world.serve_only(files)
    await siege.send(siege.assign())
    siege.device.start()

    await siege.refuses(Code.METADATA_INVALID, Code.METADATA_ROLLBACK)
    await siege.heals()


async def test_mix_and_match_one_release_with_the_hash_of_another(
    siege: Siege,
) -> None:
    second = siege.world.catalog.release("model@2").variants["cam"].target
    third = siege.world.catalog.release("model@3").variants["cam"].target
    mixed = second.model_copy(update={"sha256": third.sha256, "length": third.length})
    await siege.send(siege.assign(target=mixed))

    await siege.refuses(Code.TARGET_MISMATCH)
    await siege.heals()


# -- endless data --------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
async def test_endless_data_for_metadata(siege: Siege, role: str) -> None:
    await siege.renewed()
    name = siege.current(role)
    data = siege.world.repository.read(name) or b"{"
    siege.world.broker.instead[name] = data + b" " * (4 << 20)
    await siege.send(siege.assign())

    await siege.refuses(Code.TOO_LARGE)
    await siege.hears()


async def test_endless_data_for_a_root(siege: Siege) -> None:
    siege.world.broker.instead["2.root.json"] = b"{" + b" " * (4 << 20)
    await siege.send(siege.assign())

    await siege.refuses(Code.TOO_LARGE)
    await siege.heals()


async def test_endless_roots_end_at_a_bound(siege: Siege) -> None:
    for _ in range(80):
        siege.publish(*siege.next_root(lambda _: None, "root-1", "root-2"))
    await siege.send(siege.assign())

    # the chain is followed as far as the bound, and from there the next time
    await siege.outcome(10, "committed")
    await siege.runs("model@2")
    roots = [it for it in siege.world.broker.asked if it.endswith("root.json")]
    assert 64 <= len(roots) <= 66


async def test_endless_data_for_an_index(siege: Siege) -> None:
    name = siege.index_name()
    data = siege.world.repository.read(name) or b"{"
    siege.world.broker.instead[name] = data + b" " * (4 << 20)
    await siege.send(siege.assign())

    await siege.refuses(Code.TOO_LARGE)
    await siege.heals()


@pytest.mark.parametrize("role", ROLES)
async def test_rubbish_for_metadata(siege: Siege, role: str) -> None:
    await siege.renewed()
    siege.world.broker.instead[siege.current(role)] = b"[" * 300
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.hears()


@pytest.mark.parametrize("role", ROLES)
async def test_withheld_metadata_is_tried_again(siege: Siege, role: str) -> None:
    await siege.renewed()
    name = siege.current(role)
    siege.world.broker.instead[name] = None
    await siege.send(siege.assign())

    await siege.silent(lambda: name in siege.world.broker.asked, f"asking for {name}")
    await siege.runs("model@1")
    assert not [it for it in siege.device.events if it.code is not None]
    await siege.hears()


async def test_a_withheld_index_is_tried_again(siege: Siege) -> None:
    name = siege.index_name()
    siege.world.broker.instead[name] = None
    await siege.send(siege.assign())

    await siege.silent(lambda: name in siege.world.broker.asked, f"asking for {name}")
    await siege.runs("model@1")
    await siege.heals()


# -- stolen online keys --------------------------------------------------------------


async def test_a_stolen_timestamp_key_cannot_sign_a_snapshot(siege: Siege) -> None:
    name = siege.current("snapshot")
    version = int(name.partition(".")[0]) + 1

    def raise_version(snapshot: Signed) -> None:
        snapshot.version = version

    key = siege.world.key("timestamp")
    forged = siege.world.forge(name, raise_version, key)
    siege.world.broker.instead[f"{version}.snapshot.json"] = forged
    siege.world.forge_timestamp(forged, version)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.recovers("timestamp")


async def test_a_stolen_timestamp_key_cannot_move_the_time_past_what_others_signed(
    siege: Siege,
) -> None:
    def hurry(timestamp: Signed) -> None:
        timestamp.version += 1
        timestamp.expires = ago(days=-4000)
        timestamp.unrecognized_fields["x-issued"] = "2036-01-01T00:00:00Z"

    key = siege.world.key("timestamp")
    forged = siege.world.forge("timestamp.json", hurry, key)
    siege.world.broker.instead["timestamp.json"] = forged
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID, Code.METADATA_EXPIRED)
    siege.world.resign()
    siege.world.resign()
    await siege.heals()


async def test_stolen_online_keys_cannot_list_new_software(siege: Siege) -> None:
    chain = siege.world.repository.chain()
    version = chain.delegated["class-cam"].version + 1
    thief = siege.world.key("snapshot")

    def evil(role: Signed) -> None:
        assert isinstance(role, Targets)
        role.version = version

    forged = siege.world.forge(siege.current("class-cam"), evil, thief)
    siege.world.broker.instead[f"{version}.class-cam.json"] = forged

    def name_it(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        snapshot.meta["class-cam.json"] = MetaFile(version)

    siege.world.forge_online(name_it)
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID)
    await siege.recovers("timestamp", "snapshot")


async def test_the_whole_controller_stolen_installs_only_what_the_class_key_signed(
    siege: Siege,
) -> None:
    chosen = siege.world.catalog.release("model@3").variants["cam"].target
    siege.world.resign()  # with the stolen keys of snapshot and timestamp
    await siege.send(siege.assign(20, target=chosen, release="model@3"))

    await siege.outcome(20, "committed")
    await siege.runs("model@3")


@pytest.mark.parametrize("role", ["class-cam", "targets"])
async def test_an_offline_key_stolen_alone_changes_nothing(
    siege: Siege, role: str
) -> None:
    await siege.renewed()
    name = siege.current(role)

    def empty(signed: Signed) -> None:
        assert isinstance(signed, Targets)
        signed.targets = {}
        signed.unrecognized_fields["x-evil"] = "yes"

    forged = siege.world.forge(name, empty, siege.world.key(role))
    siege.world.broker.instead[name] = forged
    await siege.send(siege.assign())

    await siege.refuses(Code.METADATA_INVALID, Code.TOO_LARGE)
    await siege.hears()
