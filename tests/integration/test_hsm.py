"""Keys in a real PKCS#11 token (SoftHSM): made there, signing there, never seen."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck_controller.repository import hsm
from quarterdeck_controller.repository.changes import rotated
from quarterdeck_controller.repository.keyfile import KeyFile, PublicHalf, keep_place
from quarterdeck_controller.repository.repository import Committed
from quarterdeck_shared.codes import Code
from tests.support.ceremony import copied_fleet, proposed, refuses
from tests.support.commands import Deck
from tests.support.releases import NOW

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
TOKEN, PIN = "holder", "1234-5678"

pytestmark = pytest.mark.skipif(
    not MODULE.exists() or shutil.which("softhsm2-util") is None,
    reason="SoftHSM is not installed (apt install softhsm2)",
)


@pytest.fixture(scope="module", autouse=True)
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plug in a token; its library is told once a process where tokens are."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    words = ["--init-token", "--free", "--label", TOKEN, "--pin", PIN, "--so-pin", PIN]
    subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    yield
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


def made(folder: Path, name: str) -> KeyFile:
    place = hsm.make_key(str(MODULE), TOKEN, name, PIN)
    keep_place(folder, name, place, NOW)
    return KeyFile(folder / f"{name}.hsm")


def test_a_key_in_a_token_signs_and_its_files_hold_no_secret(tmp_path: Path) -> None:
    file = made(tmp_path, "root-1")

    signature = file.signer(lambda _: PIN).sign(b"bytes")

    public = PublicHalf.read(file.half).public()
    public.verify_signature(signature, b"bytes")
    assert public.scheme == "ecdsa-sha2-nistp256"
    assert file.keyid() == public.keyid
    assert file.is_encrypted()
    assert PIN not in file.path.read_text() + file.half.read_text()


def test_the_key_of_a_label_is_made_once(tmp_path: Path) -> None:
    first, again = made(tmp_path / "a", "root-2"), made(tmp_path / "b", "root-2")
    other = made(tmp_path / "c", "root-3")

    assert first.keyid() == again.keyid()
    assert other.keyid() != first.keyid()


def test_a_wrong_pin_is_said_and_not_tried_again(tmp_path: Path) -> None:
    file, asked = made(tmp_path, "root-4"), []

    def wrong(what: str) -> str:
        asked.append(what)
        return "0000"

    refusal = refuses(lambda: file.signer(wrong).sign(b"bytes"))

    assert refusal.code is Code.KEY_LOCKED
    assert asked == [f"the PIN of the token {TOKEN} for root-4"]
    assert refuses(lambda: file.signer(lambda _: None).sign(b"")).code is (
        Code.KEY_LOCKED
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("token", "unplugged"), ("module", "/nowhere.so"), ("object", 4711)],
)
def test_a_token_or_key_that_is_not_there_is_named(
    tmp_path: Path, field: str, value: object
) -> None:
    file = made(tmp_path, "root-5")
    told = json.loads(file.path.read_text())
    file.path.write_text(json.dumps(told | {field: value}))

    refusal = refuses(lambda: file.signer(lambda _: PIN).sign(b"bytes"))

    assert refusal.code is Code.KEY_INVALID
    assert "token" in refusal.detail


def test_a_role_is_signed_for_with_a_token(tmp_path: Path) -> None:
    fleet = copied_fleet(tmp_path / "fleet")
    file = made(fleet.machine("targets-2"), "targets-2")
    public = PublicHalf.read(file.half).public()
    chain = fleet.repository.chain()
    request = proposed(fleet, "targets", rotated(chain, "targets", [public]))
    fleet.signed(request, "root-1", "root-2")
    folder = fleet.exported(request)

    fleet.answer(folder, "targets-2", key=file, secret=PIN)

    assert isinstance(fleet.imported(request, folder), Committed)
    assert fleet.repository.chain().keyids("targets") == (public.keyid,)


def test_the_command_makes_a_key_in_a_token(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    deck = Deck(tmp_path, monkeypatch, capsys)
    pin = tmp_path / "pin"
    pin.write_text(f"{PIN}\n")
    where = ("--kind", "pkcs11", "--module", str(MODULE), "--token", TOKEN)

    said = deck.runs(
        "quarterdeck", "key", "create", "root-9", "--out", str(tmp_path / "keys"),
        *where, "--passphrase-file", str(pin), "--json",
    )  # fmt: skip
    bare = deck.runs(
        "quarterdeck", "key", "create", "root-8", "--out", str(tmp_path / "keys"),
        "--kind", "pkcs11",
    )  # fmt: skip

    assert said.code == 0
    assert said.value["private"].endswith("root-9.hsm")
    assert said.value["keyid"] == KeyFile(tmp_path / "keys" / "root-9.hsm").keyid()
    assert bare.code == 2
    assert "--module" in bare.told
