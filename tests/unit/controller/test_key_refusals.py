"""What a signer is not shown, and what the home does not take in."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root, Signed

from quarterdeck_controller.repository.changes import (
    rotated,
    with_threshold,
    without_key,
)
from quarterdeck_controller.repository.exported import (
    Answer,
    keep_answer,
    read_answers,
    read_exported,
)
from quarterdeck_controller.repository.repository import Committed
from quarterdeck_controller.repository.requests import Request
from quarterdeck_shared.codes import Code
from quarterdeck_shared.index import digest
from tests.support.ceremony import (
    Fleet,
    copied_fleet,
    one_more_root,
    proposed,
    refuses,
)
from tests.support.releases import publish


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return copied_fleet(tmp_path / "fleet")


def rewrite(folder: Path, role: str, change: Callable[[Any], None]) -> None:
    """Change what an exported request asks to be signed, and its terms with it."""
    file = folder / "metadata" / f"{role}.json"
    metadata: Metadata[Any] = Metadata.from_bytes(file.read_bytes())
    change(metadata.signed)
    metadata.signatures.clear()
    file.write_bytes(metadata.to_bytes())
    terms = json.loads((folder / "request.json").read_text())
    for wanted in terms["roles"]:
        if wanted["role"] == role:
            wanted["sha256"] = digest(metadata.signed_bytes)
    (folder / "request.json").write_text(json.dumps(terms))


def longer(signed: Signed) -> None:
    signed.expires += timedelta(days=1)


def test_a_request_that_was_changed_on_the_way_is_not_ours(fleet: Fleet) -> None:
    request = one_more_root(fleet)
    folder = fleet.exported(request)
    rewrite(folder, "root", longer)
    fleet.answer(folder, "root-1")
    original = fleet.exported(request)
    shutil.copytree(folder / "signatures", original / "signatures")

    (answer,) = read_answers(original)
    refusal = refuses(lambda: fleet.imported(request, original))

    assert answer.request != request.id
    assert refusal.code is Code.SIGNATURE_INVALID
    assert "changed on the way" in refusal.detail
    assert fleet.repository.request(request.id).metadata["root"].signatures == {}


def test_metadata_that_its_terms_do_not_tell_is_damaged(fleet: Fleet) -> None:
    folder = fleet.exported(one_more_root(fleet))
    file = folder / "metadata" / "root.json"
    file.write_bytes(file.read_bytes().replace(b'"version":2', b'"version":3'))

    refusal = refuses(lambda: read_exported(folder))

    assert refusal.code is Code.EXPORT_DAMAGED
    assert "was asked for" in refusal.detail


@pytest.mark.parametrize("file", ["request.json", "metadata/root.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"v":9}', b"\xff" * 99])
def test_a_damaged_export_is_refused_as_that(
    fleet: Fleet, file: str, data: bytes
) -> None:
    folder = fleet.exported(one_more_root(fleet))
    (folder / file).write_bytes(data)

    assert refuses(lambda: read_exported(folder)).code is Code.EXPORT_DAMAGED


def test_a_chain_that_was_tampered_with_convinces_no_signer(fleet: Fleet) -> None:
    request = one_more_root(fleet)
    for name in sorted(fleet.repository.in_force()):
        folder = fleet.exported(request)
        file = folder / "chain" / name
        file.write_bytes(file.read_bytes().replace(b'"expires":"20', b'"expires":"21'))

        refusal = refuses(partial(read_exported, folder))

        assert refusal.code is Code.HOME_INVALID, name


def test_a_signer_who_kept_a_root_is_not_shown_another_fleet_or_an_old_one(
    fleet: Fleet, tmp_path: Path
) -> None:
    old = fleet.exported(one_more_root(fleet))
    (request,) = fleet.repository.requests()
    assert isinstance(fleet.signed(request, "root-1", "root-2"), Committed)
    trusted = fleet.repository.newest_root()
    other = Fleet(tmp_path / "other")
    foreign = other.exported(one_more_root(other))
    fresh = fleet.exported(
        proposed(fleet, "root", without_key(fleet.repository.chain(), "root", "root-1"))
    )

    assert read_exported(fresh, trusted).chain is not None
    rollback = refuses(lambda: read_exported(old, trusted))
    another = refuses(
        lambda: read_exported(foreign, fleet.repository.read("1.root.json"))
    )

    assert rollback.code is Code.METADATA_ROLLBACK
    assert another.code is Code.METADATA_INVALID
    assert "another fleet" in another.detail


def test_a_key_that_is_not_of_the_role_signs_nothing(fleet: Fleet) -> None:
    request = one_more_root(fleet)
    folder = fleet.exported(request)
    stranger = CryptoSigner.generate_ed25519()
    payload = request.metadata["root"].signed_bytes

    unasked = refuses(lambda: fleet.answer(folder, "class-cam"))
    forged = {"root": stranger.sign(payload).signature}
    keyid = stranger.public_key.keyid
    keep_answer(folder, Answer(request=request.id, keyid=keyid, signatures=forged))
    foreign = refuses(lambda: fleet.imported(request, folder))

    assert "may sign for none of root" in unasked.detail
    assert foreign.code is Code.SIGNATURE_INVALID
    assert "may not sign for root" in foreign.detail


def test_one_wrong_signature_spoils_an_import_and_nothing_is_taken(
    fleet: Fleet,
) -> None:
    request = one_more_root(fleet)
    folder = fleet.exported(request)
    fleet.answer(folder, "root-1")
    keyid = fleet.key("root-2").keyid()
    assert keyid is not None
    wrong = Answer(request=request.id, keyid=keyid, signatures={"root": "00" * 64})
    keep_answer(folder, wrong)

    refusal = refuses(lambda: fleet.imported(request, folder))

    assert refusal.code is Code.SIGNATURE_INVALID
    assert fleet.repository.request(request.id).metadata["root"].signatures == {}


def test_a_request_whose_base_is_gone_says_what_to_do(fleet: Fleet) -> None:
    request = one_more_root(fleet)
    folder = fleet.exported(request)
    fleet.answer(folder, "root-1")
    kept = fleet.home.requests / request.id
    shutil.copytree(kept, fleet.folder / "aside")
    with fleet.repository.exclusive():
        fleet.repository.cancel(request.id)
    raised = with_threshold(fleet.repository.chain(), "root", 3)
    other = proposed(fleet, "root", raised)
    assert isinstance(fleet.signed(other, "root-1", "root-2", "root-3"), Committed)
    shutil.copytree(fleet.folder / "aside", kept)  # a backup brings it back

    refusal = refuses(lambda: fleet.imported(request, folder))

    assert refusal.code is Code.CONFLICT
    assert f"quarterdeck key cancel {request.id}" in refusal.detail
    assert "version 2 is in force now" in refusal.detail
    with fleet.repository.exclusive():
        fleet.repository.cancel(request.id)
    assert fleet.repository.requests() == ()


def test_a_role_waits_for_one_change_at_a_time(fleet: Fleet) -> None:
    first = one_more_root(fleet)

    refusal = refuses(
        lambda: proposed(
            fleet, "root", with_threshold(fleet.repository.chain(), "root", 3)
        )
    )

    assert refusal.code is Code.CONFLICT
    assert f"cancel {first.id}" in refusal.detail
    assert isinstance(publish(fleet.repository), Request)  # another role may


def odd_threshold(root: Root) -> None:
    root.roles["root"].threshold = 5


def foreign_id(root: Root) -> None:
    first, second = root.roles["root"].keyids[:2]
    root.keys[first] = Key.from_dict(first, root.keys[second].to_dict())


def no_snapshots(root: Root) -> None:
    root.consistent_snapshot = False


def spare_key(root: Root) -> None:
    key = CryptoSigner.generate_ed25519().public_key
    root.keys[key.keyid] = key


@pytest.mark.parametrize("change", [odd_threshold, foreign_id, no_snapshots, spare_key])
def test_a_root_of_a_form_that_words_cannot_tell_is_not_shown_to_be_signed(
    fleet: Fleet, change: Callable[[Any], None]
) -> None:
    folder = fleet.exported(one_more_root(fleet))
    rewrite(folder, "root", change)

    refusal = refuses(lambda: read_exported(folder))

    assert refusal.code is Code.METADATA_INVALID
    assert refusal.detail.startswith("the new root is odd")


def usurped(fleet: Fleet) -> bytes:
    """Return a next root that names only a stranger's key, and is signed by it."""
    stranger = CryptoSigner.generate_ed25519()
    data = fleet.repository.newest_root()
    root = Metadata[Root].from_bytes(data).signed
    root.version += 1
    for keyid in list(root.roles["root"].keyids):
        root.revoke_key(keyid, "root")
    root.add_key(stranger.public_key, "root")
    root.roles["root"].threshold = 1
    metadata: Metadata[Any] = Metadata(root)
    metadata.sign(stranger)
    return metadata.to_bytes()


def test_a_root_that_the_one_before_did_not_sign_is_believed_by_nobody(
    fleet: Fleet,
) -> None:
    request = publish(fleet.repository)
    assert isinstance(request, Request)
    folder, forged = fleet.exported(request), usurped(fleet)
    (folder / "chain" / "2.root.json").write_bytes(forged)
    there = refuses(lambda: read_exported(folder))
    (fleet.home.repository / "2.root.json").write_bytes(forged)

    here = refuses(fleet.repository.chain)

    assert there.code is here.code is Code.HOME_INVALID
    assert "root was signed by 0/2 keys" in here.detail


@pytest.mark.parametrize("version", [1, 3])
def test_a_root_under_another_number_is_not_taken_for_the_next(
    fleet: Fleet, version: int
) -> None:
    request = one_more_root(fleet)
    new = request.metadata["root"]
    new.signed.version = version
    new.signatures.clear()
    for name in ("root-1", "root-2"):
        new.sign(fleet.key(name).signer(lambda _: None), append=True)

    (fleet.home.repository / "2.root.json").write_bytes(new.to_bytes())

    refusal = refuses(fleet.repository.chain)
    assert refusal.code is Code.HOME_INVALID
    assert f"2.root.json says {version}" in refusal.detail


def test_a_root_that_its_own_keys_did_not_sign_is_not_in_force(fleet: Fleet) -> None:
    keys = [fleet.new_key(f"root-{number}").public() for number in (7, 8, 9)]
    request = proposed(fleet, "root", rotated(fleet.repository.chain(), "root", keys))
    new = request.metadata["root"]
    for name in ("root-1", "root-2"):
        new.sign(fleet.key(name).signer(lambda _: None), append=True)

    (fleet.home.repository / "2.root.json").write_bytes(new.to_bytes())

    refusal = refuses(fleet.repository.chain)
    assert refusal.code is Code.HOME_INVALID
    assert "root was signed by 0/2 keys" in refusal.detail
