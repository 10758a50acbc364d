"""``quarterdeck device`` where it is about who may be a device, as it is typed."""

import csv
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from quarterdeck_controller.identity.admission import LIST_FILE
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.store.records import Presence
from quarterdeck_controller.store.store import Store
from tests.support.identities import device_identity, record_identity
from tests.support.operator import CLOCK, Operator


@pytest.fixture
def operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Operator:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Operator(tmp_path, monkeypatch, capsys)


def certify(operator: Operator, device: str, generation: int = 1) -> None:
    """Have ``device`` hold a certificate, as if it had enrolled."""
    authority = Authority.open(operator.home.authority)
    identity = device_identity(authority, device, "gateway", generation=generation)
    with Store.open(operator.home.database) as store, store.write() as records:
        record_identity(records, identity)


def identity(operator: Operator, device: str) -> str:
    rows = operator.types("device", "list", "--json").rows
    return next(str(it["identity"]) for it in rows if it["device"] == device)


def test_a_bundle_holds_an_invitation_and_no_key_of_the_device(
    operator: Operator,
) -> None:
    said = operator.enrols("till-1")

    bundle = operator.path / "bundles" / "till-1"
    assert sorted(it.name for it in bundle.iterdir()) == [
        "agent.toml",
        "ca.pem",
        "claim.pem",
        "root.json",
        "token",
    ]
    assert "take it to the machine" in said.out
    assert (bundle / "token").read_text().strip() not in said.out
    assert identity(operator, "till-1") == "waits for enrolment"


def test_identities_are_told_in_a_word(operator: Operator) -> None:
    for device in ("a", "b", "c"):
        operator.enrols(device)
    certify(operator, "a")
    operator.types("device", "withdraw-token", "b")
    operator.types("device", "revoke", "c", "--reason", "lost")

    assert identity(operator, "a") in {"29 d left", "30 d left"}
    assert identity(operator, "b") == "not invited"
    assert identity(operator, "c") == "revoked"
    assert "identity" in operator.types("device", "list").out


def test_show_tells_every_certificate(operator: Operator) -> None:
    operator.enrols("a")
    certify(operator, "a")
    operator.types("device", "revoke", "a", "--reason", "fell into the sea")
    operator.types("device", "replace", "a", "--out", operator.path / "new")
    certify(operator, "a", 2)

    told = operator.types("device", "show", "a", "--json").value["certificates"]

    assert [it["generation"] for it in told] == [2, 1]
    assert [it["standing"] for it in told] == [
        "not seen yet",
        "revoked: fell into the sea",
    ]
    assert "fell into the sea" in operator.types("device", "show", "a").out


def test_a_revoked_device_says_why_and_how_it_comes_back(operator: Operator) -> None:
    operator.enrols("a")
    certify(operator, "a")

    said = operator.types("device", "revoke", "a", "--reason", "stolen")

    assert said.code == 0
    assert "quarterdeck device replace a" in said.out
    assert "quarterdeck serve" in said.err
    shown = operator.types("device", "show", "a", "--json").value
    assert shown["revoked_why"] == "stolen"
    again = operator.types("device", "revoke", "a", "--reason", "x", "--json").value
    assert again["revoked_before"] is True
    refused = operator.types(
        "device", "enrol", "a", "--class", "gateway", "--again", "--out", "b"
    )
    assert "device_revoked" in refused.err
    assert not (operator.path / "b").exists()


def test_to_revoke_asks_for_a_reason_and_a_device(operator: Operator) -> None:
    operator.enrols("a")

    assert operator.types("device", "revoke", "a").code == 2
    assert operator.types("device", "revoke", "b", "--reason", "x").code == 3
    assert operator.types("device", "revoke", "a", "--reason", " ").code == 1
    assert operator.types("device", "replace", "b").code == 3


def test_an_external_broker_is_left_to_its_operator(operator: Operator) -> None:
    text = operator.home.settings_file.read_text()
    operator.home.settings_file.write_text(
        text.replace('kind = "nats"', 'kind = "external"')
    )
    operator.enrols("a")
    now = CLOCK.now()
    with Store.open(operator.home.database) as store, store.write() as records:
        session = Presence(
            device="a",
            boot=1,
            connection=1,
            online=True,
            last_seen=now,
            changed_at=now,
            client="5ec2e7",
        )
        records.presence.put([session])

    said = operator.types("device", "revoke", "a", "--reason", "stolen")

    for told in ("quarterdeck broker config", LIST_FILE, "5ec2e7"):
        assert told in said.err


def test_a_token_alone_goes_to_a_machine_that_has_the_rest(operator: Operator) -> None:
    operator.enrols("a")
    bundle = operator.path / "bundles" / "a"
    before = (bundle / "token").read_bytes()
    settings = (bundle / "agent.toml").read_bytes()

    said = operator.enrols("a", "gateway", "--again", "--token-only")

    assert said.code == 0, said.err
    assert (bundle / "token").read_bytes() != before
    assert (bundle / "agent.toml").read_bytes() == settings
    assert "enrol --config agent.toml" in said.out
    assert len(operator.types("device", "tokens", "--json").rows) == 1


@pytest.mark.parametrize(
    ("valid", "code"), [("1s", 1), ("400d", 1), ("soon", 2), ("90m", 0)]
)
def test_an_invitation_has_a_sensible_time(
    operator: Operator, valid: str, code: int
) -> None:
    said = operator.enrols("a", "gateway", "--valid", valid)

    assert said.code == code
    assert len(operator.types("device", "list", "--json").rows) == (code == 0)


def test_no_open_invitation_says_how_one_is_made(operator: Operator) -> None:
    assert "device enrol ID" in operator.types("device", "tokens").out
    assert operator.types("device", "tokens", "--json").rows == []


def test_a_list_of_revocations_that_grows_old_is_told_of(operator: Operator) -> None:
    operator.enrols("a")
    assert operator.types("device", "list").err == ""
    authority = Authority.open(operator.home.authority)
    file = operator.home.authority / LIST_FILE
    file.write_bytes(authority.revocation_list((), days=10))

    said = operator.types("device", "list")

    assert "list of revocations ends" in said.err
    assert "quarterdeck serve" in said.err


# -- many ------------------------------------------------------------------------------


def test_a_thousand_devices_are_invited_within_seconds(operator: Operator) -> None:
    ids = operator.path / "ids.csv"
    ids.write_text("".join(f"cam-{it:04},cam,hall-{it % 7}\n" for it in range(1000)))
    began = CLOCK.monotonic()

    said = operator.types("device", "enrol-many", ids, "--out", "line", "--json")

    took = CLOCK.monotonic() - began
    assert said.code == 0, said.err
    assert took < 10, took
    assert said.value["devices"] == 1000
    with (operator.path / "line" / "tokens.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({it["token"] for it in rows}) == 1000
    assert (rows[7]["id"], rows[7]["class"]) == ("cam-0007", "cam")
    listed = operator.types("device", "list", "-l", "tag=hall-3", "--json").rows
    assert {it["identity"] for it in listed} == {"waits for enrolment"}


def test_of_a_list_with_one_wrong_line_nobody_is_invited(operator: Operator) -> None:
    ids = operator.path / "ids.csv"
    ids.write_text("cam-1,cam\ncam-2,fridge\ncam-1,cam\n")

    said = operator.types("device", "enrol-many", ids, "--out", "line")

    assert said.code == 1
    assert "line 2: no class 'fridge'" in said.err
    assert "line 3: cam-1 is on line 1 already" in said.err
    assert operator.types("device", "list", "--json").rows == []
    assert not (operator.path / "line").exists()


@pytest.mark.parametrize("again", ["same", "elsewhere"])
def test_the_same_list_twice_is_refused_and_changes_nothing(
    operator: Operator, again: str
) -> None:
    ids = operator.path / "ids.csv"
    ids.write_text("cam-1\n")
    words = ("device", "enrol-many", ids, "--class", "cam", "--out")
    operator.types(*words, "same")
    before = (operator.path / "same" / "tokens.csv").read_bytes()

    said = operator.types(*words, again)

    assert said.code == 1
    assert (operator.path / "same" / "tokens.csv").read_bytes() == before
    assert not (operator.path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("missing.csv", "--out", "line"), "missing.csv: No such file"),
        ((".", "--out", "line"), "Is a directory"),
        (("ids.csv", "--out", "full"), "not an empty folder"),
        (("ids.csv", "--out", "line", "--class", "x"), "no class 'x'"),
        (
            ("ids.csv", "--out", "line", "--valid", "1s"),
            "is good for 1 minute to 365 days",
        ),
        (("ids.csv", "--out", "ids.csv/line"), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_refused_whole(
    operator: Operator, words: tuple[str, ...], told: str
) -> None:
    (operator.path / "ids.csv").write_text("cam-1,cam\n")
    (operator.path / "full").mkdir()
    (operator.path / "full" / "mine").touch()

    said = operator.types("device", "enrol-many", *words)

    assert said.code == 1
    assert told in said.err
    assert operator.types("device", "list", "--json").rows == []
    assert not (operator.path / "line").exists()
    assert (operator.path / "full" / "mine").exists()


def test_what_was_done_is_in_the_audit_log(operator: Operator) -> None:
    (operator.path / "ids.csv").write_text("cam-1,cam\n")
    operator.types("device", "enrol-many", "ids.csv", "--out", "line")
    operator.types("device", "withdraw-token", "cam-1")
    operator.types("device", "revoke", "cam-1", "--reason", "lost")

    with Store.open(operator.home.database) as store, store.read() as records:
        entries = [json.loads(it.body) for it in records.audit.newest(10)]
    done = {(it["act"], it["subject"].partition(":")[0]) for it in entries}
    assert {
        ("device.enrol", "claim"),
        ("device.enrol", "device"),
        ("device.revoke", "device"),
    } <= done


def test_a_token_is_listed_by_its_claim_and_end(operator: Operator) -> None:
    operator.enrols("a", "gateway", "--valid", "2h")

    (told,) = operator.types("device", "tokens", "--json").rows
    assert told["device"] == "a"
    assert str(told["claim"]).startswith("claim-")
    left = datetime.fromisoformat(told["until"]) - CLOCK.now()
    assert timedelta(hours=1) < left <= timedelta(hours=2)


def test_a_new_issuing_authority_takes_over_with_the_roots_key(
    operator: Operator,
) -> None:
    folder = operator.home.authority
    before = (folder / "issuing.pem").read_bytes()
    elsewhere = operator.path / "stick.key"
    (folder / "root.key").rename(elsewhere)

    missing = operator.types("key", "authority-renew")
    done = operator.types("key", "authority-renew", "--root-key", elsewhere)

    assert missing.code == 1
    assert "--root-key" in missing.err
    assert done.code == 0, done.err
    assert "start the controller anew" in done.out
    assert (folder / "issuing.pem").read_bytes() != before
    assert not (folder / "root.key").exists()
