"""A list of devices is taken whole or not at all, and every wrong line is named."""

import csv
import io
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_controller.fleet.bulk import (
    MAX_LIST_BYTES,
    Line,
    read_list,
    write_factory_folder,
)
from quarterdeck_controller.home import Settings
from quarterdeck_controller.identity.tokens import Invitation
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import NOW

CLASSES = ("cam", "gateway")


def read(text: str | bytes, device_class: str | None = "cam") -> tuple[Line, ...]:
    data = text if isinstance(text, bytes) else text.encode()
    return read_list(data, device_class, classes=CLASSES, known=["taken"])


def refusal(text: str | bytes, device_class: str | None = "cam") -> str:
    with pytest.raises(RejectedError) as refused:
        read(text, device_class)
    assert refused.value.code is Code.LIST_INVALID
    return refused.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "a,gateway,hall-1 east\nb\n",
        "id,class,tags\r\na,gateway,hall-1;east\r\nb,,\r\n",
        "\ufeffID,class,tags\n\n a , gateway , hall-1 east hall-1 \n b ,\n\n",
        'a,gateway,"hall-1 east"\nb',
    ],
)
def test_a_list_may_have_a_heading_blanks_classes_and_tags(text: str) -> None:
    first, second = read(text)

    assert (first.device, first.device_class) == ("a", "gateway")
    assert first.tags == ("hall-1", "east")
    assert (second.device, second.device_class, second.tags) == ("b", "cam", ())


def test_every_wrong_line_is_named_with_its_number() -> None:
    told = refusal(
        "id,class\ngood,cam\nGood,cam\nx,toaster\ngood,cam\ntaken,cam\n"
        "controller,cam\nclaim-1,cam\nz,cam,Bad Tag!\na,b,c,d\n"
    )

    for line, what in {
        3: "'Good'",
        4: "no class 'toaster'",
        5: "good is on line 2 already",
        6: "there is a device taken already",
        7: "reserved",
        8: "reserved",
        9: "tag",
        10: "4 fields",
    }.items():
        assert any(
            it.startswith(f"line {line}:") and what in it for it in told.split("; ")
        ), (line, told)
    assert "line 2:" not in told


def test_a_device_without_a_class_is_named() -> None:
    assert refusal("a\n", None).startswith("line 1: 'a' has no class")


def test_a_line_after_quoted_line_ends_keeps_its_number() -> None:
    assert "line 4" in refusal('id,class,tags\na,cam,"x\ny"\nBAD,cam\n')


def test_of_many_wrong_lines_the_first_twenty_are_told() -> None:
    told = refusal("".join(f"BAD{it}\n" for it in range(50)))

    assert "line 20:" in told
    assert "line 21:" not in told
    assert told.endswith("and 30 more")


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"id,class\n", b"\xff\xfe", b"a\0b\n", b"x" * (MAX_LIST_BYTES + 1)],
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    assert refusal(data)


@given(st.binary(max_size=300))
def test_rubbish_is_refused_and_never_fails(data: bytes) -> None:
    codes = {Code.LIST_INVALID}
    try:
        codes = {Code.LIST_INVALID for _ in read(data)}
    except RejectedError as error:
        codes = {error.code}

    assert codes == {Code.LIST_INVALID}


def test_the_line_gets_tokens_one_claim_and_settings_for_each_class(
    tmp_path: Path,
) -> None:
    expires = NOW + timedelta(days=7)
    invitations = [
        Invitation(name, kind, f"token-of-{name}" * 2, "claim-1", b"claim", expires)
        for name, kind in (("a", "cam"), ("b", "gateway"), ("c", "cam"))
    ]
    settings = Settings(fleet="f", classes=CLASSES)

    write_factory_folder(
        tmp_path / "line", invitations, settings, authority=b"ca", root=b"root"
    )

    folder = tmp_path / "line"
    assert sorted(it.name for it in folder.iterdir()) == [
        "agent-cam.toml",
        "agent-gateway.toml",
        "ca.pem",
        "claim.pem",
        "root.json",
        "tokens.csv",
    ]
    rows = list(csv.DictReader(io.StringIO((folder / "tokens.csv").read_text())))
    assert [it["id"] for it in rows] == ["a", "b", "c"]
    assert rows[1]["token"] == invitations[1].token
    assert 'device = "DEVICE-ID"' in (folder / "agent-cam.toml").read_text()
    for secret in ("tokens.csv", "claim.pem"):
        assert stat.S_IMODE((folder / secret).stat().st_mode) == 0o600
