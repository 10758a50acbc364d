"""``quarterdeck operator`` and ``audit`` as people type them, and what is recorded."""

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import opened
from quarterdeck_controller.cli.options import GIVEN, Given
from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.commands import Deck


@pytest.fixture
def deck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Deck]:
    yield Deck(tmp_path, monkeypatch, capsys)
    GIVEN.set(None)


def test_a_home_without_operators_asks_nobody_and_records_who_was_there(
    deck: Deck,
) -> None:
    told = deck.types("operator", "list")

    with opened(deck.home.path, Act.DEVICE_ENROL) as fleet, fleet.store.write() as it:
        enrol(it, "till-1", "cam", now=fleet.clock.now())
        fleet.audit("device:till-1", device_class="cam")

    (entry,) = deck.entries()
    assert told.code == 0
    assert told.err == ""
    assert entry["actor"].startswith("os:")
    assert (entry["role"], entry["act"]) == ("admin", "device.enrol")
    assert (entry["subject"], entry["outcome"]) == ("device:till-1", "done")
    assert entry["detail"] == {"device_class": "cam"}


def test_a_token_for_another_home_does_no_harm_where_nobody_is_asked(
    deck: Deck,
) -> None:
    deck.becomes("qdo_of-another-home")

    assert deck.types("device", "list").code == 0


def test_the_first_operator_is_an_admin_and_then_every_command_asks(
    deck: Deck,
) -> None:
    refused = deck.types("operator", "add", "vic", "--role", "viewer")
    made = deck.types("operator", "add", "ada", "--role", "admin")
    asked = deck.types("device", "list")

    assert refused.code == 1
    assert "the first operator is one" in refused.told
    assert made.code == 0
    assert "qdo_" in made.out
    assert "operator login" in made.err
    assert asked.code == 4
    assert "unauthenticated" in asked.err


def test_a_token_is_shown_once_and_never_kept(deck: Deck) -> None:
    token = deck.hires("ada", "admin")

    deck.becomes(token)
    deck.types("operator", "show", "ada")

    home = [it for it in deck.home.path.rglob("*") if it.is_file()]
    assert not any(token.encode() in file.read_bytes() for file in home)
    assert token not in deck.types("audit", "list", "--json").out


def test_a_role_is_held_to_and_every_attempt_is_recorded(deck: Deck) -> None:
    ada = deck.hires("ada", "admin")
    deck.becomes(ada)
    deck.becomes(deck.hires("vic", "viewer"))

    seen = deck.types("device", "list")
    refused = deck.types("operator", "revoke", "ada")

    last = deck.entries()[-1]
    assert seen.code == 0
    assert refused.code == 4
    assert "vic is viewer; operator.change needs admin" in refused.told
    assert (last["actor"], last["role"]) == ("vic", "viewer")
    assert (last["act"], last["subject"]) == ("operator.change", "operator:ada")
    assert (last["outcome"], last["detail"]["code"]) == ("refused", "not_permitted")


def test_seeing_leaves_no_record_unless_it_was_refused(deck: Deck) -> None:
    ada = deck.hires("ada", "admin")
    deck.becomes(ada)
    before = len(deck.entries())

    deck.types("device", "list")
    quiet = len(deck.entries())
    deck.becomes("qdo_wrong")
    deck.types("device", "list")

    assert quiet == before
    last = deck.entries()[-1]
    assert (last["act"], last["outcome"]) == ("see", "refused")
    assert last["actor"].startswith("os:")
    assert "qdo_wrong" not in json.dumps(last)


def test_who_logs_in_is_known_to_every_command_until_they_log_out(deck: Deck) -> None:
    token = deck.hires("ada", "admin")

    wrong = deck.types("operator", "login", typed="qdo_nonsense\n")
    told = deck.types("operator", "login", typed=f"{token}\n")
    known = deck.types("operator", "whoami", "--json")
    (file,) = (deck.path / "config" / "quarterdeck" / "tokens").iterdir()
    mode = file.stat().st_mode & 0o777
    gone = deck.types("operator", "logout")
    unknown = deck.types("operator", "whoami")

    assert (wrong.code, told.code, gone.code, unknown.code) == (4, 0, 0, 4)
    assert "You are ada, admin" in told.out
    assert (known.value["actor"], known.value["role"]) == ("ada", "admin")
    assert mode == 0o600


def test_there_is_nothing_to_log_in_to_without_operators(deck: Deck) -> None:
    told = deck.types("operator", "login", typed="qdo_x\n")

    assert told.code == 1
    assert "has no operators" in told.told
    assert not (deck.path / "config").exists()


def test_a_token_may_come_from_a_file_that_only_its_owner_reads(deck: Deck) -> None:
    token = deck.hires("ada", "admin")
    file = deck.path / "token"
    file.write_text(f"{token}\n")
    file.chmod(0o600)

    after = deck.types("operator", "whoami", "--token-file", file)
    before = deck.types("--token-file", file, "operator", "whoami")
    file.chmod(0o644)
    open_to_all = deck.types("operator", "whoami", "--token-file", file)
    missing = deck.types("operator", "whoami", "--token-file", deck.path / "none")

    assert (after.code, before.code) == (0, 0)
    assert open_to_all.code == missing.code == 4
    assert "others may read it (mode 644)" in open_to_all.told
    assert "No such file" in missing.told


def test_a_certificate_lets_its_holder_in(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    folder = deck.path / "ola"

    made = deck.types(
        *("operator", "add", "ola", "--role", "operator"),
        *("--certificate", "--out", folder, "--valid", "30d", "--json"),
    )
    deck.becomes(None)
    file = folder / "identity.pem"
    known = deck.types("operator", "whoami", "--identity", file, "--json")

    assert made.value["token"] is None
    assert made.value["file"] == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (known.value["actor"], known.value["role"]) == ("ola", "operator")
    assert b"PRIVATE" not in deck.home.database.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no pem", b"\xff" * 100_000])
def test_an_identity_that_is_none_is_refused(deck: Deck, content: bytes) -> None:
    deck.hires("ada", "admin")
    file = deck.path / "identity.pem"
    file.write_bytes(content)
    file.chmod(0o600)

    said = deck.types("operator", "whoami", "--identity", file)

    assert said.code == 4
    assert str(file) in said.told


def test_a_certificate_that_cannot_be_written_makes_no_operator(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    (deck.path / "identity.pem").touch()

    said = deck.types(
        *("operator", "add", "ola", "--role", "viewer"),
        *("--certificate", "--out", deck.path),
    )

    assert said.code == 1
    assert "exists already" in said.told
    assert deck.types("operator", "show", "ola").code == 3


def test_two_credentials_at_once_are_refused(deck: Deck) -> None:
    deck.hires("ada", "admin")

    said = deck.types(
        "operator", "whoami", "--identity", deck.path / "a", "--token-file", "b"
    )

    assert said.code == 4
    assert "give one" in said.told


def test_the_last_admin_stays_and_a_second_may_go(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))

    last = deck.types("operator", "revoke", "ada")
    demoted = deck.types("operator", "role", "ada", "viewer")
    deck.hires("eve", "admin")
    gone = deck.types("operator", "revoke", "ada")
    after = deck.types("operator", "list")

    assert (last.code, demoted.code, gone.code, after.code) == (1, 1, 0, 4)
    assert "last admin" in last.told


def test_who_is_locked_out_recovers_as_owner_of_the_files_and_it_is_recorded(
    deck: Deck,
) -> None:
    deck.hires("ada", "admin")

    recovered = deck.types("operator", "recover", "ada", "--json")
    deck.becomes(recovered.value["token"])

    entry = deck.entries()[-1]
    assert deck.types("operator", "whoami").code == 0
    assert entry["act"] == "operator.recover"
    assert entry["actor"].startswith("os:")
    assert entry["detail"]["what"] == "recover"


def test_a_renewal_ends_the_credential_before(deck: Deck) -> None:
    old = deck.hires("ada", "admin")
    deck.becomes(old)

    new = deck.types("operator", "renew", "ada", "--valid", "2d", "--json")
    ended = deck.types("operator", "whoami")
    deck.becomes(new.value["token"])
    told = deck.types("operator", "whoami")

    assert ended.code == 4
    assert told.code == 0
    assert "Your credential ends at" in told.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("operator", "show", "nobody"), 3),
        (("operator", "revoke", "nobody"), 3),
        (("operator", "add", "x", "--role", "king"), 2),
        (("operator", "add", "Ada Lovelace", "--role", "admin"), 1),
        (("operator", "add", "x", "--role", "admin", "--valid", "0s"), 1),
        (("operator", "add", "x", "--role", "admin", "--valid", "9999d"), 1),
        (("operator", "add", "x", "--role", "admin", "--valid", "soon"), 2),
        (("operator", "add", "x", "--role", "admin", "--out", "y"), 2),
        (("audit", "show", "99"), 3),
        (("audit", "list", "--limit", "0"), 2),
        (("audit", "verify", "--file", "/nowhere"), 3),
        (("audit", "verify", "--against", "/nowhere"), 3),
    ],
)
def test_a_slip_ends_with_the_code_of_its_kind(
    deck: Deck, words: tuple[str, ...], code: int
) -> None:
    assert deck.types(*words).code == code


def test_an_act_that_fails_is_recorded_and_what_it_changed_is_not(deck: Deck) -> None:
    with pytest.raises(RejectedError):
        _enrol_twice(deck)

    (entry,) = deck.entries()
    with deck.store() as store, store.read() as records:
        assert records.devices.all() == ()
    assert (entry["outcome"], entry["subject"]) == ("failed", "device:till-1")
    assert entry["detail"]["code"] == "conflict"


def _enrol_twice(deck: Deck) -> None:
    with opened(deck.home.path, Act.DEVICE_ENROL) as fleet:
        fleet.audit("device:till-1")
        with fleet.store.write() as records:
            for _ in range(2):
                enrol(records, "till-1", "cam", now=fleet.clock.now())


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt, "interrupted"), (RuntimeError, "RuntimeError")],
)
def test_an_act_outside_the_database_has_a_beginning_and_an_end(
    deck: Deck, error: type[BaseException], code: str
) -> None:
    with opened(deck.home.path, Act.KEY_CHANGE, "key:root-1") as fleet:
        fleet.audit("key:root-1", version=2)
    with pytest.raises(error), opened(deck.home.path, Act.KEY_CHANGE, "key:x"):
        raise error

    told = [(it["subject"], it["outcome"], it["detail"]) for it in deck.entries()]
    assert told[:2] == [
        ("key:root-1", "begun", {}),
        ("key:root-1", "done", {"begun": 1, "version": 2}),
    ]
    assert told[2] == ("key:x", "begun", {})
    subject, outcome, detail = told[3]
    assert (subject, outcome, detail["begun"], detail["code"]) == (
        "key:x",
        "failed",
        3,
        code,
    )


def test_an_act_on_many_is_one_entry_each_in_one_transaction(deck: Deck) -> None:
    with opened(deck.home.path, Act.DEVICE_ENROL) as fleet, fleet.store.write():
        for n in range(1000):
            fleet.audit(f"device:d-{n}")

    entries = deck.entries()
    assert len(entries) == 1000
    assert {it["subject"] for it in entries} == {f"device:d-{n}" for n in range(1000)}


def test_whoever_owns_the_files_may_serve_though_every_token_ended(deck: Deck) -> None:
    deck.hires("ada", "admin")

    with opened(deck.home.path, Act.SERVE) as fleet:
        actor = fleet.actor.name

    assert actor.startswith("os:")
    assert [it["outcome"] for it in deck.entries()[-2:]] == ["begun", "done"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_does_not_own_the_files_needs_the_role_to_serve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        deck = Deck(Path(folder), monkeypatch, capsys)
        deck.becomes(deck.hires("ada", "admin"))
        token = deck.hires("vic", "viewer")
        for place in (Path(folder), deck.home.path):
            place.chmod(0o777)
        deck.home.database.chmod(0o666)

        with pytest.raises(RejectedError) as refused:
            _serve_as_somebody_else(deck, token)

        assert refused.value.code is Code.NOT_PERMITTED
        assert "serve needs admin" in refused.value.detail
        assert deck.entries()[-1]["outcome"] == "refused"


def _serve_as_somebody_else(deck: Deck, token: str) -> None:
    GIVEN.set(Given(token=token))
    os.seteuid(65534)
    try:
        with opened(deck.home.path, Act.SERVE):
            pass
    finally:
        os.seteuid(0)


def test_the_log_is_listed_shown_exported_and_verified(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    deck.hires("vic", "viewer")
    file = deck.path / "log.jsonl"

    listed = deck.types("audit", "list", "--actor", "ada", "--json").rows
    shown = deck.types("audit", "show", "2")
    exported = deck.types("audit", "export", file)
    verified = deck.types("audit", "verify")
    offline = deck.runs("quarterdeck", "audit", "verify", "--file", str(file), "--json")
    held = deck.types("audit", "verify", "--against", file)
    again = deck.types("audit", "export", file)

    assert [it["subject"] for it in listed] == ["operator:vic"]
    assert "operator.change" in shown.out
    assert exported.code == verified.code == offline.code == held.code == 0
    assert "2 entries, none of them changed" in verified.out
    assert offline.value["sound"] is True
    assert "vouches for the first 2; 0 are newer" in held.out
    assert again.code == 1
    assert "exists" in again.told


def test_a_changed_log_is_named_by_entry_and_ends_with_1(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    deck.hires("vic", "viewer")
    raw = sqlite3.connect(deck.home.database)
    with raw:
        raw.execute("UPDATE audit SET actor = 'eve' WHERE number = 2")
    raw.close()

    told = deck.types("audit", "verify")
    as_json = deck.types("audit", "verify", "--json")

    assert told.code == as_json.code == 1
    assert "audit_broken: entry 2" in told.told
    assert as_json.value["faults"][0]["entry"] == 2
    assert as_json.value["sound"] is False


def test_a_log_that_was_cut_off_shows_against_what_was_kept(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    deck.hires("vic", "viewer")
    export, head = deck.path / "log.jsonl", deck.path / "head.json"
    deck.types("audit", "export", export)
    head.write_text(deck.types("audit", "verify", "--json").out)
    clock = SystemClock()
    repository = Repository(deck.home, clock)
    timestamp = repository.chain().timestamp
    repository.renew(timestamp.expires)
    kept = deck.path / "timestamp.json"
    kept.write_bytes(repository.timestamp())
    raw = sqlite3.connect(deck.home.database)
    with raw:
        raw.execute("DELETE FROM audit WHERE number = 2")
    raw.close()

    for words in ([], ["--against", export], ["--against", head], ["--against", kept]):
        told = deck.types("audit", "verify", *words)

        assert told.code == 1
        assert "knows entry 2: the last 1 were cut off" in told.told


def test_an_admin_who_restored_a_backup_says_so_and_signing_goes_on(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    deck.hires("vic", "viewer")
    repository = Repository(deck.home, SystemClock())
    repository.renew(repository.chain().timestamp.expires)
    raw = sqlite3.connect(deck.home.database)
    with raw:
        raw.execute("DELETE FROM audit WHERE number = 2")
    raw.close()

    before = deck.types("audit", "verify")
    accepted = deck.types("audit", "accept", "--reason", "restored from Monday")
    after = deck.types("audit", "verify")
    repository.renew(repository.chain().timestamp.expires)
    signed = deck.types("audit", "verify", "--json")
    again = deck.types("audit", "accept", "--reason", "x")

    entry = deck.entries()[1]
    assert (before.code, accepted.code, after.code, again.code) == (1, 0, 0, 1)
    assert signed.value["witnessed"] == 2
    assert (entry["actor"], entry["act"], entry["subject"]) == (
        "ada",
        "audit.accept",
        "head:2",
    )
    assert entry["detail"]["reason"] == "restored from Monday"


def test_a_timestamp_of_a_key_that_was_replaced_since_bears_witness(
    deck: Deck,
) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    repository = Repository(deck.home, SystemClock())
    repository.renew(repository.chain().timestamp.expires)
    kept = deck.path / "timestamp.json"
    kept.write_bytes(repository.timestamp())

    rotated = deck.types("key", "rotate", "timestamp")
    held = deck.types("audit", "verify", "--against", kept)
    forged = deck.path / "forged.json"
    forged.write_bytes(kept.read_bytes().replace(b'"number":1', b'"number":2'))
    refused = deck.types("audit", "verify", "--against", forged)

    assert (rotated.code, held.code, refused.code) == (0, 0, 1)
    assert repository.chain().root.version == 2
    assert "signature_invalid" in refused.err


def test_a_timestamp_offline_needs_a_root_that_vouches_for_it(deck: Deck) -> None:
    deck.becomes(deck.hires("ada", "admin"))
    file = deck.path / "log.jsonl"
    deck.types("audit", "export", file)
    repository = Repository(deck.home, SystemClock())
    repository.renew(repository.chain().timestamp.expires)
    timestamp = deck.home.repository / "timestamp.json"
    words = ["quarterdeck", "audit", "verify", "--file", str(file)]
    words += ["--against", str(timestamp)]

    alone = deck.runs(*words)
    root = deck.home.repository / "1.root.json"
    vouched = deck.runs(*words, "--root", str(root))

    assert alone.code == 1
    assert "--root" in alone.told
    assert vouched.code == 0
