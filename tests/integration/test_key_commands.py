"""What an operator and the holders of keys type, from founding to recovery."""

import shutil
import tomllib
from pathlib import Path

import pytest

from quarterdeck_controller.home import Home
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.clock import SystemClock
from tests.support.commands import Deck, Said

PASSPHRASE = "correct horse battery"


@pytest.fixture
def deck(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Deck:
    monkeypatch.delenv("QUARTERDECK_PASSPHRASE", raising=False)
    monkeypatch.delenv("QUARTERDECK_PASSPHRASE_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    return Deck(tmp_path / "test", monkeypatch, capsys)


class Office:
    """Three holders and an operator, each with a folder that only they see."""

    def __init__(self, deck: Deck, folder: Path) -> None:
        self.deck, self.folder = deck, folder
        self.home = folder / "controller" / "home"
        (folder / "controller").mkdir()
        for holder in ("ann", "bob", "eve"):
            (folder / holder).mkdir()
            (folder / holder / "secret").write_text(f"{PASSPHRASE} of {holder}\n")

    def at(self, holder: str, *words: str | Path) -> Said:
        """Have a holder type a command where they are."""
        secret = str(self.folder / holder / "secret")
        arguments = ["quarterdeck", "key", *map(str, words)]
        return self.deck.runs(*arguments, "--passphrase-file", secret)

    def here(self, *words: str | Path) -> Said:
        """Have the operator type a command at the controller."""
        arguments = ["quarterdeck", *map(str, words), "--home", str(self.home)]
        return self.deck.runs(*arguments)

    def carried(self, source: Path, holder: str) -> Path:
        """Bring a folder to somebody."""
        copied = self.folder / holder / source.name
        shutil.copytree(source, copied, dirs_exist_ok=True)
        return copied

    def sign(self, holder: str, key: str, request: Path, *more: str | Path) -> Said:
        """Have a holder sign a copy of ``request``, and bring the copy back."""
        there, own = self.carried(request, holder), self.folder / holder
        said = self.at(
            holder, "sign", there, "--key", own / f"{key}.pem", "--yes", *more
        )
        self.carried(there, "controller")
        return said

    def halves(self) -> Path:
        """Have every holder make their keys; return the public halves they bring."""
        brought = self.folder / "controller" / "halves"
        brought.mkdir()
        for holder, names in HELD.items():
            for name in names:
                made = self.at(holder, "create", name, "--out", self.folder / holder)
                assert made.code == 0, made.err
                shutil.copy(self.folder / holder / f"{name}.pub", brought)
        return brought

    def found(self) -> None:
        """Found the fleet, with everybody's signatures."""
        self.here("init", "--keys", self.halves(), "--class", "cam")
        request = self.folder / "controller" / "request"
        self.here("key", "export", "--out", request)
        for holder, names in HELD.items():
            for name in names:
                self.sign(holder, name, request)
        assert "In force" in self.here("key", "import", request).out

    def check_nothing_private_came_here(self) -> None:
        """Check that the controller has made its own keys and seen no other."""
        made = sorted(path.name for path in (self.home / "keys").iterdir())
        assert made == ["director.pem", "snapshot.pem", "time.pem", "timestamp.pem"]
        files = [it for it in (self.folder / "controller").rglob("*") if it.is_file()]
        assert not [it for it in files if b"ENCRYPTED" in it.read_bytes()]
        foreign = {f"{name}.pem" for names in HELD.values() for name in names}
        assert not foreign & {it.name for it in files}


HELD = {
    "ann": ("root-1", "class-cam"),
    "bob": ("root-2", "targets"),
    "eve": ("root-3", "provenance"),
}


def test_a_fleet_is_founded_by_holders_who_share_only_what_is_exported(
    deck: Deck, tmp_path: Path
) -> None:
    office = Office(deck, tmp_path)
    halves = office.halves()

    founded = office.here("init", "--keys", halves, "--class", "cam")
    unserved = office.here("key", "show")
    request = tmp_path / "controller" / "request"
    exported = office.here("key", "export", "--out", request)
    signed = office.sign("ann", "root-1", request)
    office.sign("bob", "targets", request)
    waiting = office.here("key", "import", request)
    for holder, key in (("ann", "class-cam"), ("bob", "root-2"), ("eve", "provenance")):
        assert office.sign(holder, key, request).code == 0
    done = office.here("key", "import", request)
    again = office.here("key", "import", request)

    assert founded.code == exported.code == signed.code == waiting.code == 0
    assert "Nothing can be served before they have signed" in founded.out
    assert "signatures_missing" in unserved.told
    assert "the fleet begins with this root" in signed.out
    assert "root is signed by 2 of 3" in signed.out
    assert "Still missing" in waiting.out
    assert "In force" in done.out, done.err
    assert "is not open here" in again.told
    rows = office.here("key", "list", "--json").rows
    roles = {row["role"]: row["where"] for row in rows}
    assert roles["class-cam"] == "elsewhere"
    assert roles["timestamp"].endswith("timestamp.pem")
    office.check_nothing_private_came_here()


def test_a_threshold_is_raised_by_holders_who_trust_the_root_that_they_kept(
    deck: Deck, tmp_path: Path
) -> None:
    office = Office(deck, tmp_path)
    office.found()

    raised = office.here("key", "threshold", "root", "3")
    request = tmp_path / "controller" / "second"
    office.here("key", "export", "--out", request)
    kept = tmp_path / "ann" / "root.json"
    kept.write_bytes((office.home / "repository" / "1.root.json").read_bytes())
    checked = office.sign("ann", "root-1", request, "--root", kept)
    for holder, key in (("bob", "root-2"), ("eve", "root-3")):
        office.sign(holder, key, request)
    done = office.here("key", "import", request)

    assert "waits for signatures" in raised.out
    assert "root is signed by 3 of 3 (it was 2 of 3)" in checked.out
    assert "In force" in done.out, done.err
    assert Repository(Home(office.home), SystemClock()).chain().root.version == 2
    office.check_nothing_private_came_here()


def test_without_a_terminal_nothing_is_signed_unasked(
    deck: Deck, tmp_path: Path
) -> None:
    deck.types("key", "rotate", "root", "--json")
    secret = tmp_path / "secret"
    secret.write_text(PASSPHRASE)
    deck.runs("quarterdeck", "key", "create", "stranger", "--out", str(tmp_path / "k"),
              "--passphrase-file", str(secret))  # fmt: skip
    added = deck.types("key", "add", "class-cam", "--with", tmp_path / "k/stranger.pub")
    assert "In force" in added.out, added.err

    raised = deck.types("key", "threshold", "class-cam", "2")
    assert "stranger" in raised.out
    exported = deck.types("key", "export", "--out", tmp_path / "request")
    assert exported.code == 0
    words = ("quarterdeck", "key", "sign", str(tmp_path / "request"), "--key",
             str(tmp_path / "k" / "stranger.pem"))  # fmt: skip
    unasked = deck.runs(*words, "--passphrase-file", str(secret))
    locked = deck.runs(*words, "--yes")

    assert unasked.code == 1
    assert "add --yes" in unasked.told
    assert locked.code == 1
    assert "key_locked" in locked.told
    assert not (tmp_path / "request" / "signatures").exists()


def test_an_online_key_is_recovered_and_the_operator_is_told_what_to_check(
    deck: Deck,
) -> None:
    before = Repository(deck.home, SystemClock()).chain()

    said = deck.types("key", "recover", "online")

    after = Repository(deck.home, SystemClock()).chain()
    assert said.code == 0, said.err
    for role in ("snapshot", "timestamp", "director", "time"):
        assert not set(before.keyids(role)) & set(after.keyids(role))
        assert f"Who had the key of {role} could" in said.out
    assert "Delete what signs nothing any more" in said.out
    assert deck.types("key", "recover", "root").code == 1


def test_a_class_is_added_to_a_fleet_and_named_in_its_settings(deck: Deck) -> None:
    settings = deck.home.settings_file
    text = settings.read_text()
    settings.write_text(f"{text}\n# mine: do not touch\n")

    said = deck.types("key", "add-class", "fridge")
    again = deck.types("key", "add-class", "fridge")

    assert said.code == 0, said.err
    assert deck.home.settings().classes == ("cam", "gateway", "fridge")
    assert "# mine: do not touch" in settings.read_text()
    assert tomllib.loads(settings.read_text())["test"] is True
    assert again.code == 1
    assert "has a role" in again.told
    settings.write_text(text)  # as if the power had gone before the settings
    assert deck.types("key", "add-class", "fridge").code == 0
    assert deck.home.settings().classes == ("cam", "gateway", "fridge")


def test_a_folder_that_was_damaged_on_the_way_is_not_called_a_damaged_home(
    deck: Deck, tmp_path: Path
) -> None:
    office = Office(deck, tmp_path)
    office.here("init", "--keys", office.halves(), "--class", "cam")
    request = tmp_path / "controller" / "request"
    office.here("key", "export", "--out", request)
    (request / "metadata" / "root.json").unlink()

    imported = office.here("key", "import", request)
    signed = office.sign("ann", "root-1", request)

    for said in (imported, signed):
        assert said.code == 1
        assert "export_damaged" in said.told
        assert "root.json" in said.told


def test_a_public_half_in_place_of_its_key_is_named_as_that(
    deck: Deck, tmp_path: Path
) -> None:
    office = Office(deck, tmp_path)
    office.here("init", "--keys", office.halves(), "--class", "cam")
    request = tmp_path / "controller" / "request"
    office.here("key", "export", "--out", request)
    half = tmp_path / "ann" / "root-1.pub"

    said = office.at("ann", "sign", request, "--key", half, "--yes")

    assert said.code == 1
    assert "is the public half, which cannot sign" in said.told
    assert "no passphrase" not in said.told


def test_before_the_first_signatures_a_fleet_waits_and_is_not_called_damaged(
    deck: Deck, tmp_path: Path
) -> None:
    office = Office(deck, tmp_path)
    halves = office.halves()
    office.here("init", "--keys", halves, "--class", "cam")

    listed = office.here("release", "list")
    imported = office.here("key", "import", halves)

    assert listed.code == 1
    assert "signatures_missing" in listed.told
    assert imported.code == 3
    assert "holds no request that key export has written" in imported.told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rotate", "fridge"), "no signing role fridge"),
        (("rotate", "class-fridge"), "no signing role class-fridge"),
        (("revoke", "root", "nobody"), "nobody is not one key of root"),
        (("revoke", "targets", "targets"), "1 of 0 keys"),
        (("threshold", "root", "4"), "4 of 3 keys"),
        (("threshold", "root", "0"), "0 of 3 keys"),
        (("threshold", "root", "2"), "2 of 3 already"),
        (("add", "root"), "name one key"),
        (("add", "root", "--with", "missing.pub"), "missing.pub"),
        (("add-class", "Bad Name"), "cannot name a class"),
        (("cancel", "abcdef01"), "no open request abcdef01"),
        (("export",), "name the request; open: none"),
        (("import", "nowhere"), "nowhere holds no request"),
    ],
)
def test_what_makes_no_sense_is_explained_and_changes_nothing(
    deck: Deck, words: tuple[str, ...], told: str
) -> None:
    before = {path.name for path in deck.home.keys.iterdir()}
    version = Repository(deck.home, SystemClock()).chain().timestamp.version

    said = deck.types("key", *words)

    assert said.code in (1, 3)
    assert told in said.told
    assert {path.name for path in deck.home.keys.iterdir()} == before
    after = Repository(deck.home, SystemClock()).chain().timestamp.version
    assert after == version


def test_the_keys_of_a_fleet_in_earnest_are_never_made_here(deck: Deck) -> None:
    settings = deck.home.settings_file
    settings.write_text(settings.read_text().replace("test = true", "test = false"))

    for words in (("rotate", "root"), ("rotate", "class-cam"), ("add-class", "fridge")):
        said = deck.types("key", *words)
        assert said.code == 1
        assert "made where they are kept" in said.told
    served = deck.types("serve")
    assert served.code == 1
    assert "offline_keys_here" in served.told
    assert "class-cam.pem" in served.told


def test_an_unencrypted_key_is_made_for_a_test_home_only(
    deck: Deck, tmp_path: Path
) -> None:
    def create(name: str, folder: Path) -> Said:
        return deck.runs("quarterdeck", "key", "create", name, "--out", str(folder),
                         "--unencrypted")  # fmt: skip

    allowed, refused = create("extra", deck.home.keys), create("extra", tmp_path / "k")
    nobody = deck.runs(
        "quarterdeck", "key", "create", "x", "--out", str(tmp_path / "k")
    )
    short = tmp_path / "short"
    short.write_text("1234")
    weak = deck.runs("quarterdeck", "key", "create", "x", "--out", str(tmp_path / "k"),
                     "--passphrase-file", str(short))  # fmt: skip

    assert allowed.code == 0, allowed.err
    assert refused.code == nobody.code == weak.code == 1
    assert "test home" in refused.told
    assert "nobody can be asked" in nobody.told
    assert "at least 8" in weak.told
    assert not (tmp_path / "k").exists()


def test_show_tells_what_expires_first_and_what_waits(deck: Deck) -> None:
    (deck.home.keys / "class-cam.pem").rename(deck.path / "class-cam.pem")
    deck.types("key", "threshold", "root", "3")

    told = deck.types("key", "show", "--json").value
    shown = deck.types("key", "show")

    left = [row["days_left"] for row in told["deadlines"]]
    assert left == sorted(left)
    assert told["deadlines"][0]["what"] == "timestamp"
    where = {row["what"]: row["keys"] for row in told["deadlines"]}
    assert where["class-cam"] == "elsewhere"
    assert where["root"] == "here"
    assert told["requests"] == []
    assert "3 of 3" in shown.out
