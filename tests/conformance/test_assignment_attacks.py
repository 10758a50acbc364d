"""Attacks on the assignment and with the director's key, and what the device answers.

The judgement and the repository are the real ones; the attacker holds the broker, and
in some tests keys.
"""

import json

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, Signed, Snapshot, TargetFile, Targets

from quarterdeck_shared.assignment import Target
from quarterdeck_shared.codes import Code
from quarterdeck_shared.index import digest
from tests.support.attacks import World, heals, refusal, sealed
from tests.support.releases import make_index

# -- the assignment: whose it is -----------------------------------------------------


def test_wrong_device(world: World) -> None:
    envelope = world.assign(device="cam-2")

    assert refusal(world.device(), envelope) is Code.WRONG_DEVICE
    assert heals(world)


def test_wrong_class_an_assignment_for_another_class(world: World) -> None:
    envelope = world.assign(device_class="gateway")

    assert refusal(world.device(), envelope) is Code.WRONG_CLASS


def test_stolen_class_an_artifact_of_another_class(world: World) -> None:
    target = world.catalog.release("model@1").variants["gateway"].target

    assert refusal(world.device(), world.assign(target=target)) is Code.WRONG_CLASS


def test_stolen_class_a_whole_assignment_of_a_device_of_another_class(
    world: World,
) -> None:
    target = world.catalog.release("model@1").variants["gateway"].target
    envelope = world.assign(device_class="gateway", target=target)

    assert refusal(world.device(), envelope) is Code.WRONG_CLASS


def test_stolen_class_the_class_key_lists_the_index_of_another_class(
    world: World,
) -> None:
    foreign = make_index("gateway", 9)
    data = foreign.encode()
    path = "classes/cam/model-9.idx"
    publish_raw(world, path, data)
    target = Target(path=path, length=len(data), sha256=digest(data))

    envelope = world.assign(target=target, release="model@9")

    assert refusal(world.device(), envelope) is Code.WRONG_CLASS


CUSTOM = {"release": 1, "created": "2026-01-01T00:00:00Z"}


def publish_raw(world: World, path: str, data: bytes, custom: object = CUSTOM) -> None:
    """List ``data`` in the class role as somebody with all keys would."""
    chain = world.repository.chain()
    version = chain.delegated["class-cam"].version + 1

    def add(role: Signed) -> None:
        assert isinstance(role, Targets)
        role.version = version
        role.targets[path] = TargetFile(
            len(data), {"sha256": digest(data)}, path, {"custom": custom}
        )

    role = world.forge(f"{version - 1}.class-cam.json", add, world.key("class-cam"))
    world.broker.instead[f"{version}.class-cam.json"] = role
    folder, _, name = path.rpartition("/")
    world.broker.instead[f"targets/{folder}/{digest(data)}.{name}"] = data

    def name_it(snapshot: Signed) -> None:
        assert isinstance(snapshot, Snapshot)
        snapshot.meta["class-cam.json"] = MetaFile(version)

    world.forge_online(name_it)


@pytest.mark.parametrize(
    "custom",
    [None, [], {}, {**CUSTOM, "release": 0}, {**CUSTOM, "more": 1}, {**CUSTOM, "v": 9}],
    ids=range(6),
)
def test_a_listing_that_signs_nothing_sensible_beside_an_index_is_refused(
    world: World, custom: object
) -> None:
    index = make_index("cam", 9)
    path = "classes/cam/model-9.idx"
    publish_raw(world, path, index.encode(), custom)
    data = index.encode()
    target = Target(path=path, length=len(data), sha256=digest(data))

    refused = refusal(world.device(), world.assign(target=target, release="model@9"))

    assert refused in {Code.MALFORMED, Code.VERSION_UNKNOWN}


def test_a_release_counter_that_is_not_the_indexs_is_refused(world: World) -> None:
    data = make_index("cam", 9).encode()
    path = "classes/cam/model-9.idx"
    publish_raw(world, path, data, CUSTOM | {"release": 77})
    target = Target(path=path, length=len(data), sha256=digest(data))

    refused = refusal(world.device(), world.assign(target=target, release="model@9"))

    assert refused is Code.TARGET_MISMATCH


@pytest.mark.parametrize(
    "data", [b"{}", b"not json", b'{"v": 2}', b"[" * 5000], ids=len
)
def test_a_signed_index_that_is_none_is_refused(world: World, data: bytes) -> None:
    path = "classes/cam/model-9.idx"
    publish_raw(world, path, data)
    target = Target(path=path, length=len(data), sha256=digest(data))

    refused = refusal(world.device(), world.assign(target=target, release="model@9"))

    assert refused in {Code.MALFORMED, Code.VERSION_UNKNOWN}


def test_an_index_that_is_not_of_the_assigned_release_is_refused(
    world: World,
) -> None:
    envelope = world.assign(release="model@7")

    assert refusal(world.device(), envelope) is Code.TARGET_MISMATCH


# -- the assignment: when ------------------------------------------------------------


def test_replay_of_an_older_sequence(world: World) -> None:
    old = world.assign(1)
    world.device().accept(old)
    world.device().accept(world.assign(2))

    assert refusal(world.device(), old) is Code.ASSIGNMENT_REPLAYED


def test_the_same_sequence_with_other_bytes(world: World) -> None:
    world.device().accept(world.assign(3))

    envelope = world.assign(3, reason="something else")

    assert refusal(world.device(), envelope) is Code.ASSIGNMENT_REPLAYED


def test_expired_assignment(world: World) -> None:
    envelope = world.assign(expires=world.clock.now())

    assert refusal(world.device(), envelope) is Code.ASSIGNMENT_EXPIRED


def test_a_redelivery_that_has_expired_is_refused(world: World) -> None:
    envelope = world.assign(1)
    world.device().accept(envelope)
    world.clock.forward(days=14)
    world.repository.renew(world.clock.now())

    assert refusal(world.device(), envelope) is Code.ASSIGNMENT_EXPIRED


def test_a_refused_assignment_does_not_raise_the_sequence(world: World) -> None:
    unknown = Target(path="classes/cam/model-9.idx", length=10, sha256="0" * 64)
    envelope = world.assign(9, target=unknown, release="model@9")
    assert refusal(world.device(), envelope) is Code.TARGET_UNKNOWN

    assert world.device().accept(world.assign(8)).assignment.sequence == 8


# -- the assignment: who signed ------------------------------------------------------


def test_unsigned(world: World) -> None:
    envelope = sealed(world.assignment().encode())

    assert refusal(world.device(), envelope) is Code.MALFORMED


def test_signed_by_a_key_that_nobody_knows(world: World) -> None:
    thief = CryptoSigner.generate_ed25519()
    envelope = sealed(world.assignment().encode(), thief)

    assert refusal(world.device(), envelope) is Code.ASSIGNMENT_UNSIGNED
    assert heals(world)


@pytest.mark.parametrize("role", ["class-cam", "targets", "snapshot", "timestamp"])
def test_signed_by_the_key_of_another_role(world: World, role: str) -> None:
    envelope = sealed(world.assignment().encode(), world.key(role))

    assert refusal(world.device(), envelope) is Code.ASSIGNMENT_UNSIGNED


def test_a_foreign_signature_under_the_directors_key_id(world: World) -> None:
    thief = CryptoSigner.generate_ed25519()
    envelope = json.loads(sealed(world.assignment().encode(), thief))
    envelope["signatures"][0]["keyid"] = world.key("director").public_key.keyid

    refused = refusal(world.device(), json.dumps(envelope).encode())

    assert refused is Code.ASSIGNMENT_UNSIGNED


def test_a_changed_payload_under_the_directors_signature(world: World) -> None:
    envelope = json.loads(world.assign(1))
    other = json.loads(sealed(world.assignment(99).encode(), world.key("director")))
    envelope["payload"] = other["payload"]

    refused = refusal(world.device(), json.dumps(envelope).encode())

    assert refused is Code.ASSIGNMENT_UNSIGNED


def test_the_directors_signature_over_another_type_of_payload(world: World) -> None:
    payload, key = world.assignment().encode(), world.key("director")

    assert refusal(world.device(), sealed(payload, key, kind="text/plain")) is (
        Code.MALFORMED
    )


def test_another_type_relabelled_as_an_assignment(world: World) -> None:
    payload, key = world.assignment().encode(), world.key("director")
    other = json.loads(sealed(payload, key, kind="text/plain"))
    other["payloadType"] = json.loads(world.assign())["payloadType"]

    refused = refusal(world.device(), json.dumps(other).encode())

    assert refused is Code.ASSIGNMENT_UNSIGNED


def test_duplicate_signatures_of_one_key(world: World) -> None:
    envelope = json.loads(world.assign())
    envelope["signatures"] *= 2

    refused = refusal(world.device(), json.dumps(envelope).encode())

    assert refused is Code.MALFORMED


def test_a_signed_payload_that_is_no_assignment(world: World) -> None:
    envelope = sealed(b'{"v": 2}', world.key("director"))

    assert refusal(world.device(), envelope) is Code.MALFORMED


def test_a_signed_payload_of_a_later_version(world: World) -> None:
    payload = json.loads(world.assignment().encode()) | {"v": 9}
    envelope = sealed(json.dumps(payload).encode(), world.key("director"))

    assert refusal(world.device(), envelope) is Code.VERSION_UNKNOWN


def test_an_oversized_envelope_is_refused_before_anything_is_fetched(
    world: World,
) -> None:
    assert refusal(world.device(), world.assign() + b" " * 20_000) is Code.TOO_LARGE
    assert world.broker.asked == []


ENVELOPE = json.dumps(
    {
        "payload": "PAYLOAD",
        "payloadType": "application/vnd.quarterdeck.assignment.v2+json",
        "signatures": [{"keyid": "a", "sig": "A"}],
    }
).encode()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"null",
        b"[" * 16_000,
        b'{"payload":"AAAA","payloadType":5,"signatures":[]}',
        ENVELOPE.replace(b"PAYLOAD", b"!"),
        ENVELOPE.replace(b"PAYLOAD", b"AAAA"),
        b"\xff" * 100,
    ],
    ids=range(7),
)
def test_rubbish_for_an_envelope_is_refused_before_anything_is_fetched(
    world: World, rubbish: bytes
) -> None:
    assert refusal(world.device(), rubbish) is Code.MALFORMED
    assert world.broker.asked == []


# -- a stolen director's key ---------------------------------------------------------


def test_a_stolen_director_key_cannot_name_what_the_class_role_does_not_list(
    world: World,
) -> None:
    target = Target(path="classes/cam/evil-1.idx", length=10, sha256="0" * 64)

    refused = refusal(world.device(), world.assign(target=target, release="evil@1"))

    assert refused is Code.TARGET_UNKNOWN


@pytest.mark.parametrize("change", [{"sha256": "ab" * 32}, {"length": 7}])
def test_a_stolen_director_key_cannot_give_a_listed_path_other_content(
    world: World, change: dict[str, object]
) -> None:
    target = world.assignment().target.model_copy(update=change)

    assert refusal(world.device(), world.assign(target=target)) is (
        Code.TARGET_MISMATCH
    )


def test_a_director_whose_key_was_replaced_is_no_longer_heard(world: World) -> None:
    old = world.key("director")
    world.replace("director")

    stolen = sealed(world.assignment(1).encode(), old)

    assert refusal(world.device(), stolen) is Code.ASSIGNMENT_UNSIGNED
    assert heals(world)
