"""Keys at rest: nobody uses one without its passphrase, none passes for another."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import SSlibKey

from quarterdeck_controller.repository.keyfile import (
    MAX_KEY_BYTES,
    KeyFile,
    Kind,
    PublicHalf,
    check_free,
    fingerprint,
    key_name,
    make_key,
)
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import NOW

PASSPHRASE = "correct horse ü"


def made(folder: Path, name: str = "root-1", kind: Kind = "ed25519") -> KeyFile:
    make_key(folder, name, kind, PASSPHRASE, NOW)
    return KeyFile(folder / f"{name}.pem")


def knows(secret: str | None) -> Callable[[str], str | None]:
    return lambda _: secret


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_key_signs_with_its_passphrase_and_its_public_half_verifies(
    tmp_path: Path, kind: Kind
) -> None:
    file = made(tmp_path, kind=kind)

    signature = file.signer(knows(PASSPHRASE)).sign(b"bytes")

    half = PublicHalf.read(file.half)
    half.public().verify_signature(signature, b"bytes")
    assert key_name(half.public()) == "root-1"
    assert file.keyid() == half.public().keyid == signature.keyid


@pytest.mark.parametrize("secret", [None, "", "wrong horse"])
def test_without_the_passphrase_a_key_does_nothing(
    tmp_path: Path, secret: str | None
) -> None:
    file = made(tmp_path)

    with pytest.raises(RejectedError, match=r"root-1\.pem") as refusal:
        file.signer(knows(secret))

    assert refusal.value.code is Code.KEY_LOCKED
    assert file.is_encrypted()


def test_the_private_half_is_its_owners_and_under_scrypt(tmp_path: Path) -> None:
    file = made(tmp_path / "keys")

    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in file.path.read_bytes()
    openssl = shutil.which("openssl")
    assert openssl is not None
    told = subprocess.run(
        [openssl, "asn1parse", "-in", str(file.path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "scrypt" in told
    read = subprocess.run(
        [openssl, "pkey", "-in", str(file.path), "-passin", f"pass:{PASSPHRASE}"],
        check=True,
        capture_output=True,
    ).stdout
    assert b"BEGIN PRIVATE KEY" in read


def test_a_key_is_never_made_over_another(tmp_path: Path) -> None:
    file = made(tmp_path)
    before = file.path.read_bytes()

    with pytest.raises(RejectedError, match="exists") as refusal:
        made(tmp_path)

    assert refusal.value.code is Code.CONFLICT
    assert file.path.read_bytes() == before
    check_free(tmp_path, "root-2")


def rsa_pem() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def p384_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Code.KEY_INVALID),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END", Code.KEY_INVALID),
        (os.urandom(400), Code.KEY_INVALID),
        (b" " * (MAX_KEY_BYTES + 1), Code.TOO_LARGE),
        (rsa_pem(), Code.KEY_INVALID),
        (p384_pem(), Code.KEY_INVALID),
    ],
)
def test_what_is_no_key_is_refused_by_its_file(
    tmp_path: Path, data: bytes, code: Code
) -> None:
    file = KeyFile(tmp_path / "x.pem")
    file.path.write_bytes(data)

    with pytest.raises(RejectedError, match=r"x\.pem") as refusal:
        file.signer(knows(PASSPHRASE))

    assert refusal.value.code is code
    assert file.keyid() is None


def test_a_key_that_was_replaced_behind_its_public_half_is_noticed(
    tmp_path: Path,
) -> None:
    file, other = made(tmp_path), made(tmp_path, "root-2")
    file.path.write_bytes(other.path.read_bytes())

    with pytest.raises(RejectedError, match=r"root-1\.pub says") as refusal:
        file.signer(knows(PASSPHRASE))

    assert refusal.value.code is Code.KEY_INVALID


def test_a_public_half_cannot_claim_the_id_of_another_key(tmp_path: Path) -> None:
    file, other = made(tmp_path), made(tmp_path, "root-2")
    told = json.loads(file.half.read_text())
    told["key"]["keyid"] = other.keyid()
    told["key"]["x-anything"] = "more"
    file.half.write_text(json.dumps(told))

    public = PublicHalf.read(file.half).public()

    assert public.keyid != other.keyid()
    assert set(public.to_dict()) == {"keytype", "scheme", "keyval", "x-name"}


@pytest.mark.parametrize(
    "key",
    [
        {},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {}},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": 7}},
        {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": ""}},
        SSlibKey.from_crypto(
            ec.generate_private_key(ec.SECP384R1()).public_key()
        ).to_dict(),
        SSlibKey.from_crypto(
            rsa.generate_private_key(65537, 2048).public_key()
        ).to_dict(),
    ],
)
def test_only_ed25519_and_p256_are_public_halves(key: dict[str, object]) -> None:
    half = PublicHalf(name="root-1", key=key, created=NOW)

    with pytest.raises(RejectedError) as refusal:
        half.public()

    assert refusal.value.code is Code.KEY_INVALID


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(
    key=st.fixed_dictionaries(
        {}, optional={"keytype": JSON, "scheme": JSON, "keyval": JSON, "x": JSON}
    ),
    name=st.text() | st.just("root-1"),
)
def test_whatever_a_public_half_holds_it_is_a_key_or_refused(
    key: dict[str, object], name: str
) -> None:
    told = {"v": 1, "name": name, "key": key, "created": NOW.isoformat()}

    with pytest.raises(RejectedError):
        PublicHalf.decode(json.dumps(told).encode()).public()


def test_keys_are_found_by_their_ids_whatever_their_files_are_called(
    tmp_path: Path,
) -> None:
    file = made(tmp_path)
    file.path.rename(tmp_path / "anything.pem")
    file.half.rename(tmp_path / "anything.pub")
    (tmp_path / "broken.pem").write_text("no key")

    known = KeyFolder(tmp_path).known()

    assert [it.name for it in known.values()] == ["anything"]


def test_an_id_is_read_aloud_in_groups_of_four() -> None:
    assert fingerprint("0123456789abcdef" * 4) == "0123-4567-89ab-cdef"
