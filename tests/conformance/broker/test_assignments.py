"""Attacks on assignments, through the broker, on a running agent."""

import json
from datetime import timedelta

import pytest
from securesystemslib.signer import CryptoSigner

from quarterdeck_shared.assignment import Target
from quarterdeck_shared.codes import Code
from tests.support.attacks import sealed
from tests.support.brokers import until
from tests.support.hostile import ago
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNKNOWN = Target(path="classes/cam/evil-1.idx", length=10, sha256="0" * 64)


async def test_an_honest_assignment_gets_through(siege: Siege) -> None:
    await siege.heals()

    assert siege.update.code is None
    assert not siege.device.refusals


# -- meant for others ----------------------------------------------------------------


async def test_the_stolen_assignment_of_another_device(siege: Siege) -> None:
    await siege.send(siege.assign(device="cam-elsewhere"))

    await siege.refuses(Code.WRONG_DEVICE)
    await siege.heals()


async def test_an_assignment_for_another_class(siege: Siege) -> None:
    await siege.send(siege.assign(device_class="gateway"))

    await siege.refuses(Code.WRONG_CLASS)
    await siege.heals()


async def test_an_artifact_of_another_class_under_the_devices_name(
    siege: Siege,
) -> None:
    other = siege.world.catalog.release("model@2").variants["gateway"]
    await siege.send(siege.assign(target=other.target))

    await siege.refuses(Code.WRONG_CLASS)
    await siege.heals()


async def test_an_assignment_on_the_topic_of_another_device_is_not_heard(
    siege: Siege,
) -> None:
    await siege.send(siege.assign(), device="cam-elsewhere")

    await siege.runs("model@1")
    assert not siege.world.broker.asked
    assert not [it for it in siege.device.events if it.sequence == 10]


# -- replayed, expired ---------------------------------------------------------------


async def test_a_replayed_assignment_of_before(siege: Siege) -> None:
    old = siege.assign(5)
    await siege.accepts(6)
    await siege.send(old)

    await siege.refuses(Code.ASSIGNMENT_REPLAYED)
    await siege.heals()


async def test_a_used_sequence_number_with_other_bytes(siege: Siege) -> None:
    await siege.accepts(6)
    await siege.send(siege.assign(6))

    await siege.refuses(Code.ASSIGNMENT_REPLAYED)
    await siege.heals()


async def test_a_retained_assignment_of_an_old_rollout_after_a_restart(
    siege: Siege,
) -> None:
    old = siege.assign(5)
    await siege.accepts(6)
    await siege.device.stop()
    await siege.send(old)
    siege.device.start()

    await siege.refuses(Code.ASSIGNMENT_REPLAYED)
    await siege.heals()


async def test_an_expired_assignment(siege: Siege) -> None:
    await siege.send(siege.assign(issued=ago(days=15), expires=ago(days=1)))

    await siege.refuses(Code.ASSIGNMENT_EXPIRED)
    await siege.heals()


async def test_an_assignment_that_expired_while_the_device_was_off(
    siege: Siege,
) -> None:
    soon = siege.world.clock.now() + timedelta(seconds=0.5)
    await siege.device.stop()
    await siege.send(siege.assign(expires=soon))
    await until(lambda: ago() > soon, "the expiry")
    siege.device.start()

    await siege.refuses(Code.ASSIGNMENT_EXPIRED)
    await siege.heals()


async def test_a_withheld_assignment_leaves_the_old_sequence_in_every_report(
    siege: Siege,
) -> None:
    siege.assign(10)  # signed by the honest director, dropped by the broker

    await siege.runs("model@1")
    assert siege.reported.sequence == 1
    await siege.heals()


async def test_an_assignment_taken_out_of_the_broker_changes_nothing(
    siege: Siege,
) -> None:
    await siege.accepts(6)
    await siege.send(b"")

    await siege.runs("model@1")
    assert siege.reported.sequence == 6
    await siege.heals()


# -- who signed ----------------------------------------------------------------------


async def test_an_assignment_without_signatures(siege: Siege) -> None:
    envelope = json.loads(siege.assign()) | {"signatures": []}
    await siege.send(json.dumps(envelope).encode())

    await siege.refuses(Code.MALFORMED)
    await siege.heals()


async def test_an_assignment_signed_by_the_attacker(siege: Siege) -> None:
    await siege.send(signed_by(siege, CryptoSigner.generate_ed25519()))

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.heals()


@pytest.mark.parametrize("role", ["class-cam", "targets", "snapshot", "timestamp"])
async def test_an_assignment_signed_by_the_key_of_another_role(
    siege: Siege, role: str
) -> None:
    await siege.send(signed_by(siege, siege.world.key(role)))

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.hears()


async def test_an_assignment_signed_by_a_root_key(siege: Siege) -> None:
    await siege.send(signed_by(siege, *siege.world.root_keys("root-1")))

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.heals()


async def test_a_foreign_signature_under_the_directors_key_id(siege: Siege) -> None:
    envelope = json.loads(signed_by(siege, CryptoSigner.generate_ed25519()))
    director = siege.world.key("director").public_key.keyid
    envelope["signatures"][0]["keyid"] = director
    await siege.send(json.dumps(envelope).encode())

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.heals()


async def test_the_directors_signature_under_a_foreign_key_id(siege: Siege) -> None:
    envelope = json.loads(siege.assign())
    envelope["signatures"][0]["keyid"] = "ab" * 32
    await siege.send(json.dumps(envelope).encode())

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.heals()


async def test_a_changed_payload_under_the_directors_signature(siege: Siege) -> None:
    envelope = json.loads(siege.assign(10))
    envelope["payload"] = json.loads(siege.assign(99))["payload"]
    await siege.send(json.dumps(envelope).encode())

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.heals()


async def test_another_statement_of_the_director_relabelled_as_an_assignment(
    siege: Siege,
) -> None:
    honest = json.loads(siege.assign())
    payload, key = siege.payload(), siege.world.key("director")
    other = json.loads(sealed(payload, key, kind="text/plain"))
    other["payloadType"] = honest["payloadType"]
    await siege.send(json.dumps(other).encode())

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.heals()


async def test_duplicate_signatures_of_one_key(siege: Siege) -> None:
    envelope = json.loads(siege.assign())
    envelope["signatures"] *= 2
    await siege.send(json.dumps(envelope).encode())

    await siege.refuses(Code.MALFORMED)
    await siege.heals()


async def test_a_director_of_threshold_two_with_one_signature(siege: Siege) -> None:
    first, second = siege.world.key("director"), CryptoSigner.generate_ed25519()
    siege.redelegate("director", first, second, threshold=2)
    await siege.send(signed_by(siege, first))

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.send(signed_by(siege, first, second, sequence=20))
    await siege.outcome(20, "committed")
    await siege.runs("model@2")


async def test_a_threshold_of_two_met_by_one_key_under_two_ids(siege: Siege) -> None:
    first, second = siege.world.key("director"), CryptoSigner.generate_ed25519()
    siege.redelegate("director", first, second, threshold=2)
    envelope = json.loads(signed_by(siege, first))
    (once,) = envelope["signatures"]
    again = once | {"keyid": second.public_key.keyid}
    envelope["signatures"] = [once, again]
    await siege.send(json.dumps(envelope).encode())

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)


async def test_a_director_whose_key_was_replaced_is_no_longer_heard(
    siege: Siege,
) -> None:
    stolen, new = siege.world.key("director"), CryptoSigner.generate_ed25519()
    siege.redelegate("director", new)
    await siege.send(signed_by(siege, stolen))

    await siege.refuses(Code.ASSIGNMENT_UNSIGNED)
    await siege.send(signed_by(siege, new, sequence=20))
    await siege.outcome(20, "committed")
    await siege.runs("model@2")


# -- form ----------------------------------------------------------------------------


async def test_endless_data_for_an_assignment(siege: Siege) -> None:
    await siege.send(siege.assign() + b" " * 100_000)

    await siege.refuses(Code.TOO_LARGE)
    assert not siege.world.broker.asked
    await siege.heals()


async def test_a_signed_assignment_of_a_later_version(siege: Siege) -> None:
    payload = json.loads(siege.payload()) | {"v": 99}
    key = siege.world.key("director")
    await siege.send(sealed(json.dumps(payload).encode(), key))

    await siege.refuses(Code.VERSION_UNKNOWN)
    await siege.heals()


async def test_a_signed_assignment_with_a_field_that_nobody_knows(
    siege: Siege,
) -> None:
    payload = json.loads(siege.payload()) | {"run": "rm -rf"}
    key = siege.world.key("director")
    await siege.send(sealed(json.dumps(payload).encode(), key))

    await siege.refuses(Code.MALFORMED)
    await siege.heals()


async def test_a_torrent_of_rubbish_does_not_keep_the_honest_assignment_out(
    siege: Siege,
) -> None:
    for number in range(200):
        await siege.send(b"[" * number)

    await siege.refuses(Code.MALFORMED)
    await siege.heals()


# -- a stolen director's key ---------------------------------------------------------


async def test_a_stolen_director_key_cannot_name_what_no_class_role_lists(
    siege: Siege,
) -> None:
    await siege.send(siege.assign(target=UNKNOWN, release="evil@1"))

    await siege.refuses(Code.TARGET_UNKNOWN)
    await siege.heals()


@pytest.mark.parametrize("change", [{"sha256": "ab" * 32}, {"length": 7}])
async def test_a_stolen_director_key_cannot_give_a_listed_path_other_content(
    siege: Siege, change: dict[str, object]
) -> None:
    listed = siege.world.catalog.release("model@2").variants["cam"].target
    await siege.send(siege.assign(target=listed.model_copy(update=change)))

    await siege.refuses(Code.TARGET_MISMATCH)
    await siege.hears()


async def test_a_stolen_director_key_cannot_give_a_model_the_name_of_another(
    siege: Siege,
) -> None:
    await siege.send(siege.assign(release="model@3"))

    await siege.refuses(Code.TARGET_MISMATCH)
    await siege.heals()


async def test_a_stolen_director_key_with_an_absurd_sequence_cannot_install(
    siege: Siege,
) -> None:
    await siege.send(siege.assign(1 << 53, target=UNKNOWN, release="evil@1"))

    await siege.refuses(Code.TARGET_UNKNOWN)
    # a refused sequence is not accepted: lower ones go on being heard
    await siege.heals()


async def test_a_burst_of_assignments_ends_with_the_newest(siege: Siege) -> None:
    for sequence in range(10, 20):
        await siege.send(siege.assign(sequence))

    await siege.outcome(19, "committed")
    await siege.runs("model@2")
    assert siege.reported.sequence == 19


def signed_by(siege: Siege, *keys: CryptoSigner, sequence: int = 10) -> bytes:
    """Return a good assignment signed by these keys."""
    return sealed(siege.payload(sequence), *keys)
