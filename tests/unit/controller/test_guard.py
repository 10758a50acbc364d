"""Every command of the program asks who it is, but for those that touch no fleet."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli import NOUNS
from quarterdeck_controller.cli.options import GIVEN
from quarterdeck_controller.repository.keyfile import make_key
from quarterdeck_shared.clock import SystemClock
from tests.support.commands import Deck
from tests.support.releases import write_variants

UNGUARDED = frozenset(
    {
        "init",  # makes the home; there is nobody yet
        "demo",  # in a home of its own, which goes with it
        "key create",  # on a machine without a home
        "key sign",  # on a machine without a home
        "operator logout",  # a file of the user's own
        "model optimize",
        "model inspect",
        "model evaluate",
        "model compare",
        "class list",
        "class show",
        "class check",
        "class derive",
        "class measure",
        "class measured",
    }
)

GUARDED: Mapping[str, tuple[str, ...]] = {
    "audit accept": ("--reason", "restored"),
    "audit export": ("log.jsonl",),
    "audit list": (),
    "audit show": ("1",),
    "audit verify": (),
    "broker config": ("--kind", "mosquitto", "--out", "broker"),
    "device enrol": ("d-1", "--class", "cam"),
    "device enrol-many": ("ids.csv", "--class", "cam", "--out", "out"),
    "device list": (),
    "device replace": ("d-1",),
    "device revoke": ("d-1", "--reason", "stolen"),
    "device show": ("d-1",),
    "device tokens": (),
    "device withdraw-token": ("d-1",),
    "explain": ("d-1",),
    "key add": ("class-cam", "--with", "fresh.pub"),
    "key add-class": ("new", "--with", "fresh.pub"),
    "key authority-renew": (),
    "key cancel": ("abc",),
    "key export": ("abc",),
    "key import": ("variants",),
    "key list": (),
    "key recover": ("timestamp",),
    "key requests": (),
    "key revoke": ("timestamp", "abc"),
    "key rotate": ("timestamp",),
    "key show": (),
    "key threshold": ("root", "2"),
    "model attest": ("variants", "--json", "--yes"),
    "monitor": (),
    "operator add": ("x", "--role", "viewer"),
    "operator list": (),
    "operator login": (),
    "operator renew": ("ada",),
    "operator revoke": ("ada",),
    "operator role": ("ada", "viewer"),
    "operator show": ("ada",),
    "operator whoami": (),
    "release create": ("variants", "--name", "m", "--version", "1"),
    "release export-signature": (
        "m@1",
        *["--class", "cam", "--key", "k", "--out", "o"],
    ),
    "release forbid-downgrade": ("m@1",),
    "release list": (),
    "release permit-downgrade": ("m@1", "--reason", "x"),
    "release revoke": ("m@1", "--reason", "bad"),
    "release show": ("m@1",),
    "rollout abort": ("1",),
    "rollout create": ("m@1",),
    "rollout list": (),
    "rollout pause": ("1",),
    "rollout plan": ("m@1",),
    "rollout resume": ("1",),
    "rollout rollback": ("1",),
    "rollout show": ("1",),
    "rollout watch": ("1",),
}
"""Every other command, with arguments that get past reading them."""

OWNERS = frozenset({"serve", "operator recover"})
"""Whoever owns the files may: shown in the tests of operators and of the service."""


def commands() -> Iterator[str]:
    """Give every command of the program."""
    for noun in NOUNS:
        module = importlib.import_module(f"quarterdeck_controller.cli.{noun}_")
        if hasattr(module, "command"):
            yield noun
            continue
        assert not module.app.registered_groups, f"{noun} nests: look into it too"
        for verb in module.app.registered_commands:
            assert verb.callback is not None
            name = verb.name or verb.callback.__name__.replace("_", "-")
            yield f"{noun} {name}"


@pytest.fixture
def deck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Deck]:
    found = Deck(tmp_path, monkeypatch, capsys)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.csv").write_text("d-1\n")
    write_variants(tmp_path / "variants", home=found.home)
    make_key(tmp_path, "fresh", "ed25519", None, SystemClock().now())
    found.hires("ada", "admin")
    yield found
    GIVEN.set(None)


def test_every_command_is_here() -> None:
    assert set(commands()) == UNGUARDED | GUARDED.keys() | OWNERS


@pytest.mark.parametrize("words", GUARDED)
def test_a_command_asks_who_it_is_before_anything_else(deck: Deck, words: str) -> None:
    before = sorted(deck.home.path.rglob("*"))

    said = deck.types(*words.split(), *GUARDED[words], typed="")

    entry = deck.entries()[-1]
    known = {act.word for act in Act}
    assert said.code == 4, said.err
    assert "unauthenticated" in said.err
    assert said.out == ""
    assert entry["outcome"] == "refused"
    assert entry["act"] in known
    assert sorted(deck.home.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "role"),
    [
        ("device enrol", "viewer"),
        ("device revoke", "viewer"),
        ("device replace", "viewer"),
        ("rollout create", "viewer"),
        ("rollout abort", "viewer"),
        ("release create", "operator"),
        ("release revoke", "operator"),
        ("release permit-downgrade", "operator"),
        ("key rotate", "releaser"),
        ("key import", "releaser"),
        ("operator add", "releaser"),
        ("audit accept", "releaser"),
    ],
)
def test_a_command_is_refused_to_the_role_below_its_own(
    deck: Deck, words: str, role: str
) -> None:
    deck.becomes(deck.types("operator", "recover", "ada", "--json").value["token"])
    deck.becomes(deck.hires("low", role))

    said = deck.types(*words.split(), *GUARDED[words])

    assert said.code == 4, said.err
    assert "not_permitted" in said.err
    assert f"low is {role}" in said.told
