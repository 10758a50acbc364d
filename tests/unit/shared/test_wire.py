"""Messages are bounded, versioned and refused with a reason."""

import json
from datetime import UTC, datetime

import pytest

from quarterdeck_shared.assignment import Assignment, Target
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import EnrolRequest
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden, Index, cut
from quarterdeck_shared.metadata import PIECE_BYTES, MetadataReply, MetadataRequest
from quarterdeck_shared.reported import SessionState
from quarterdeck_shared.transfer import ChunkFrame, Need, from_bitmap, to_bitmap

ASSIGNMENT = Assignment(
    device="cam-1",
    device_class="board-arm64",
    sequence=7,
    issued=datetime(2026, 1, 1, tzinfo=UTC),
    expires=datetime(2026, 1, 15, tzinfo=UTC),
    release="exercises@2",
    target=Target(
        path="classes/board-arm64/exercises-2.idx", length=900, sha256="a" * 64
    ),
)


def refusal(payload: bytes) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        Assignment.decode(payload)
    return caught.value


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(ASSIGNMENT.encode()) | fields).encode()


def test_a_message_survives_its_encoding() -> None:
    assert Assignment.decode(ASSIGNMENT.encode()) == ASSIGNMENT


def test_a_message_of_an_unknown_version_is_refused_by_version() -> None:
    assert refusal(changed(v=9)).code is Code.VERSION_UNKNOWN


@pytest.mark.parametrize(
    "fields",
    [
        {"device": "a/b"},
        {"device": "#"},
        {"device": "x" * 65},
        {"device_class": "../up"},
        {"sequence": 0},
        {"sequence": -1},
        {"expires": "2026-01-15T00:00:00"},
        {"surprise": 1},
        {"release": "exercises"},
        {"target": {"path": "/etc/passwd", "length": 1, "sha256": "a" * 64}},
    ],
)
def test_a_field_that_does_not_belong_is_refused(fields: dict[str, object]) -> None:
    error = refusal(changed(**fields))

    assert error.code is Code.MALFORMED
    assert next(iter(fields)) in error.detail


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
@pytest.mark.parametrize("field", ["margin", "max_error"])
def test_what_is_no_number_is_no_limit(field: str, number: bytes) -> None:
    golden = Golden(count=8, min_agreement=1, margin=0, max_error=7)
    known = json.dumps(json.loads(golden.encode()) | {field: "@"}).encode()

    with pytest.raises(RejectedError, match=field) as caught:
        Golden.decode(known.replace(b'"@"', number))

    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}" * 9])
def test_bytes_that_are_no_message_are_refused(payload: bytes) -> None:
    assert refusal(payload).code is Code.MALFORMED


def test_a_message_past_the_limit_is_refused_unread() -> None:
    assert refusal(b" " * (64 * 1024 + 1)).code is Code.TOO_LARGE


def test_a_refusal_names_both_values() -> None:
    with pytest.raises(RejectedError, match=r"boot.*less than.*got 9007199254740992"):
        SessionState.decode(b'{"v":1,"online":true,"boot":9007199254740992}')


TOKEN = "one-time-token-of-cam-1"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"token":"%b","v":1,"device":"cam-1"}',
        b'{"token":"%b","v":1,"device":"cam-1","csr":"YQ=="',
        b'{"token":["%b"],"v":1,"device":"cam-1","csr":"YQ=="}',
        b'{"token":"%b","v":1,"device":"cam-1","csr":"YQ==","seal_key":"YQ=="}',
        b'{"token":"%b' + b"x" * 128 + b'","v":1,"device":"cam-1","csr":"YQ=="}',
        b'["%b"]',
    ],
)
def test_a_refusal_never_says_a_token(payload: bytes) -> None:
    with pytest.raises(RejectedError) as caught:
        EnrolRequest.decode(payload % TOKEN.encode())

    assert TOKEN[:8] not in caught.value.detail
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_refusal_is_one_short_line_whatever_a_field_is_called() -> None:
    name = "x\nevent=device_enrolled \x1b[2J" + "y" * 10_000

    error = refusal(changed(**{name: 1}))

    assert error.detail.isprintable()
    assert len(error.detail) < 400


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    for code in Code:
        assert code.sentence.endswith(".")
        assert code.remedy.endswith((".", "init", "list"))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1000])
def test_a_bitmap_names_exactly_its_chunks(count: int) -> None:
    numbers = {n for n in range(count) if n % 3 != 1}

    assert from_bitmap(to_bitmap(numbers, count), count) == numbers


def test_a_bitmap_longer_than_the_artifact_names_no_chunk_past_its_end() -> None:
    assert from_bitmap(b"\xff\xff\xff", 5) == {0, 1, 2, 3, 4}


def test_a_need_survives_its_encoding() -> None:
    need = Need(artifact="b" * 64, missing=b"", seen=3, stream=9, credit=32)
    full = Need(artifact="b" * 64, missing=b"\x00\xff\x07", seen=3, credit=32)

    assert Need.decode(need.encode()) == need
    assert Need.decode(full.encode()).missing == b"\x00\xff\x07"


def test_a_chunk_frame_survives_its_encoding() -> None:
    frame = ChunkFrame(number=70_000, published=1 << 40, data=b"x" * 4096)

    assert ChunkFrame.decode(frame.encode()) == frame


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", Code.MALFORMED),
        (ChunkFrame(1, 1, b"").encode(), Code.MALFORMED),
        (b"\x02" + ChunkFrame(1, 1, b"x").encode()[1:], Code.VERSION_UNKNOWN),
        (ChunkFrame(1, 1, b"x" * ((1 << 20) + 1)).encode(), Code.TOO_LARGE),
    ],
)
def test_a_bad_chunk_frame_is_refused(payload: bytes, code: Code) -> None:
    with pytest.raises(RejectedError) as caught:
        ChunkFrame.decode(payload)

    assert caught.value.code is code


def test_a_metadata_reply_survives_its_encoding() -> None:
    reply = MetadataReply(id=1 << 50, found=True, piece=3, last=True, data=b"abc")

    assert MetadataReply.decode(reply.encode()) == reply


def test_a_metadata_reply_past_one_piece_is_refused() -> None:
    reply = MetadataReply(1, found=True, piece=0, last=True, data=b"x" * PIECE_BYTES)

    assert MetadataReply.decode(reply.encode()) == reply
    with pytest.raises(RejectedError):
        MetadataReply.decode(reply.encode() + b"y")


@pytest.mark.parametrize(
    "name", ["", "a" * 256, "a\nb", "a\x00", "a\x1b[2J", "\ud800", "a\u2028b"]
)
def test_a_request_cannot_name_what_a_log_could_not_show(name: str) -> None:
    payload = json.dumps({"v": 1, "id": 1, "name": name}).encode()

    with pytest.raises(RejectedError):
        MetadataRequest.decode(payload)


@pytest.mark.parametrize("name", ["A.json", "1.%2Frole.json", "?", "ü", "a" * 255])
def test_a_request_may_name_any_role(name: str) -> None:
    request = MetadataRequest(id=1, name=name)

    assert MetadataRequest.decode(request.encode()) == request


def index(**changes: object) -> dict[str, object]:
    parts = [cut("model.onnx", b"m" * 5000, 1024), cut("golden.npz", b"g", 1024)]
    fields: dict[str, object] = {
        "model": "exercises",
        "version": 2,
        "release": 1,
        "device_class": "board-arm64",
        "recipe": "static",
        "chunk_bytes": 1024,
        "parts": [part.model_dump() for part in parts],
        "requires": {
            "isa": ["aarch64"],
            "memory_mb": 256,
            "runtime": "1.20",
            "provider": "CPUExecutionProvider",
        },
        "limits": {"latency_ms": 20, "memory_mb": 200},
        "golden": {"count": 8, "min_agreement": 0.9, "margin": 0.1, "max_error": 0.3},
    }
    return fields | changes


def test_an_index_numbers_the_chunks_of_all_parts_in_order() -> None:
    chunks = Index.decode(json.dumps(index()).encode()).chunk_list()

    assert [chunk.offset for chunk in chunks] == [0, 1024, 2048, 3072, 4096, 0]
    assert [chunk.length for chunk in chunks] == [1024] * 4 + [904, 1]
    assert chunks[-1].part == "golden.npz"


def test_an_index_whose_chunks_do_not_cover_its_parts_is_refused() -> None:
    part = cut("model.onnx", b"m" * 5000, 1024).model_dump()
    golden = cut("golden.npz", b"g", 1024).model_dump()
    short = part | {"chunks": part["chunks"][:-1]}

    for parts in ([short, golden], [part], [part, part, golden], []):
        with pytest.raises(RejectedError):
            Index.decode(json.dumps(index(parts=parts)).encode())
