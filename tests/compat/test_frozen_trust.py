"""What a device remembers and signs must be read for ever; never regenerate this."""

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from quarterdeck_agent.update.floor import Floor, FloorFile
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import opened, pae, sealed
from quarterdeck_shared.refusal import Refusal
from quarterdeck_shared.signed_time import SignedTime

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ONLINE, PAYLOAD, DIRECTOR = b"ab" * 32, b"cd" * 32, b"ef" * 32

FLOOR_V1 = (
    b'{"v":1,"generation":4,"time":"2026-01-02T03:04:05Z","root":2,"online_keys":"'
    + ONLINE
    + b'","versions":{"timestamp":7,"class-cam":3},"sequence":12,"payload_sha256":"'
    + PAYLOAD
    + b'"}'
)
FLOOR_V2 = (
    FLOOR_V1.replace(b'"v":1', b'"v":2').removesuffix(b"}")
    + b',"releases":{"model":5},"director_keys":["'
    + DIRECTOR
    + b'"]}'
)
REFUSAL_V1 = (
    b'{"v":1,"device":"cam-1","boot":7,"number":2,"at":"2026-01-02T03:04:05Z",'
    b'"code":"metadata_rollback","attack":"rollback","refused":"'
    + b"12" * 32
    + b'","sequence":12,"active":"'
    + b"34" * 32
    + b'","detail":"timestamp version 1 offered, 2 accepted before","repeats":3}'
)
TIME_V1 = (
    b'{"v":1,"nonce":"abababababababababababababababab","time":"2026-01-02T03:04:05Z"}'
)
ENVELOPE = (
    b'{"payload":"cGF5bG9hZA==","payloadType":"application/x",'
    b'"signatures":[{"keyid":"key","sig":"c2ln"}]}'
)

FLOOR = Floor(
    generation=4,
    time=AT,
    root=2,
    online_keys=ONLINE.decode(),
    versions={"timestamp": 7, "class-cam": 3},
    sequence=12,
    payload_sha256=PAYLOAD.decode(),
    releases={"model": 5},
    director_keys=(DIRECTOR.decode(),),
)
NOTHING_YET: dict[str, object] = {"releases": {}, "director_keys": ()}


@pytest.mark.parametrize(
    ("body", "floor"),
    [
        (FLOOR_V1, FLOOR.model_copy(update={"v": 1, **NOTHING_YET})),
        (FLOOR_V2, FLOOR),
    ],
    ids=["version 1", "version 2"],
)
def test_a_floor_on_disk_is_read(tmp_path: Path, body: bytes, floor: Floor) -> None:
    data = sha256(body).hexdigest().encode() + b"\n" + body
    for name in ("floor.json", "floor.copy.json"):
        (tmp_path / name).write_bytes(data)

    assert FloorFile(tmp_path).load(AT) == floor


def test_a_floor_is_written_as_version_2(tmp_path: Path) -> None:
    FloorFile(tmp_path).save(FLOOR.model_copy(update={"generation": 3}))

    body = (tmp_path / "floor.json").read_bytes().partition(b"\n")[2]
    assert body == FLOOR_V2


def test_a_refusal_of_version_1_is_read() -> None:
    refusal = Refusal(
        device="cam-1",
        boot=7,
        number=2,
        at=AT,
        code=Code.METADATA_ROLLBACK,
        attack=Attack.ROLLBACK,
        refused="12" * 32,
        sequence=12,
        active="34" * 32,
        detail="timestamp version 1 offered, 2 accepted before",
        repeats=3,
    )

    assert Refusal.decode(REFUSAL_V1) == refusal
    assert refusal.encode() == REFUSAL_V1


def test_signed_time_of_version_1_is_read() -> None:
    assert SignedTime.decode(TIME_V1) == SignedTime(nonce="ab" * 16, time=AT)
    assert SignedTime(nonce="ab" * 16, time=AT).encode() == TIME_V1


def test_an_envelope_is_read_and_what_it_signs_never_changes() -> None:
    envelope = opened(ENVELOPE, "application/x", limit=1000)

    assert envelope.payload == b"payload"
    assert envelope.signatures == {"key": b"sig"}
    assert envelope.signed == b"DSSEv1 13 application/x 7 payload"
    assert sealed("application/x", b"payload", {"key": b"sig"}) == ENVELOPE
    assert pae("t", b"") == b"DSSEv1 1 t 0 "
