"""A release whose class key is elsewhere, and devices that sleep through a ceremony."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from securesystemslib.signer import Key

from quarterdeck_agent.update.trust import Accepted
from quarterdeck_controller.release.assemble import Proposal, propose_release
from quarterdeck_controller.release.attest import attester
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.release.gate import allowed_by
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.changes import Signers, change_signers
from quarterdeck_controller.repository.keyfile import make_key
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.repository import Committed
from quarterdeck_controller.repository.requests import Request
from quarterdeck_shared.codes import Code
from tests.support.attacks import World, refusal
from tests.support.ceremony import Fleet, copied_fleet, refuses
from tests.support.commands import Deck, Said
from tests.support.hostile_models import one_if
from tests.support.releases import (
    ALLOWING_PROFILE,
    evaluation,
    golden_bytes,
    model_bytes,
)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return copied_fleet(tmp_path / "fleet")


@pytest.fixture
def deck(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Deck:
    return Deck(tmp_path / "elsewhere", monkeypatch, capsys)


def proposal(
    fleet: Fleet,
    *,
    sealed: bool = False,
    model: bytes | None = None,
    profiles: Sequence[Path] = (),
) -> Proposal:
    """Have a release vouched for where models are made, and asked for at the home."""
    variant = fleet.machine("provenance") / "variants" / "cam"
    variant.mkdir(parents=True)
    files = {
        "model.onnx": model or model_bytes(1 / 64),
        "golden.npz": golden_bytes(),
    }
    record = evaluation("model", "cam", files=files)
    files["evaluation.json"] = record.encode()
    vouch = attester((fleet.key("provenance").signer(lambda _: None),))
    files["provenance.json"] = vouch(record, files["evaluation.json"])
    for name, data in files.items():
        (variant / name).write_bytes(data)
    return propose_release(
        fleet.home,
        variant.parent,
        "model",
        1,
        fleet.clock,
        sealed=sealed,
        trial=trusting,
        allowed=allowed_by(profiles),
        held={},
    )


def sign(deck: Deck, fleet: Fleet, folder: Path, *options: str) -> Said:
    key = fleet.key("class-cam").path
    return deck.runs("quarterdeck", "key", "sign", str(folder), "--key", str(key),
                     "--yes", *options)  # fmt: skip


def test_a_releaser_runs_the_gate_on_their_own_machine_and_signs(
    fleet: Fleet, deck: Deck
) -> None:
    asked = proposal(fleet)
    assert asked.request is not None
    assert Catalog(fleet.home).releases() == ()
    folder = fleet.exported(asked.request)

    said = sign(deck, fleet, folder)
    outcome = fleet.imported(asked.request, folder)

    assert said.code == 0, said.err
    assert "classes/cam/model-1.idx may be installed" in said.out
    assert "model@1 for cam" in said.out
    assert "has no passphrase" in said.told
    assert isinstance(outcome, Committed)
    (released,) = Catalog(fleet.home).releases()
    assert released.id == "model@1"
    assert Catalog(fleet.home).read_chunk(released.variants["cam"].artifact, 0)


def test_a_releaser_opens_a_sealed_release_to_look_at_it(
    fleet: Fleet, deck: Deck
) -> None:
    asked = proposal(fleet, sealed=True)
    assert asked.request is not None
    folder = fleet.exported(asked.request)
    (key,) = (folder / "attachments" / "seals").iterdir()
    kept = key.read_bytes()

    key.unlink()
    blind = sign(deck, fleet, folder)
    key.write_bytes(kept)
    said = sign(deck, fleet, folder)
    outcome = fleet.imported(asked.request, folder)

    assert "is sealed, and its key is not in the folder" in blind.told
    assert said.code == 0, said.err
    assert isinstance(outcome, Committed)
    assert [file.read_bytes() for file in fleet.home.seals.iterdir()] == [kept]


def test_whoever_exports_a_sealed_model_is_told_that_its_key_goes_along(
    fleet: Fleet, deck: Deck, tmp_path: Path
) -> None:
    asked = proposal(fleet, sealed=True)
    assert asked.request is not None
    home, stick = str(fleet.home.path), str(tmp_path / "stick")

    said = deck.runs("quarterdeck", "key", "export", "--home", home, "--out", stick)

    assert said.code == 0, said.err
    assert "It holds the key of a sealed model" in said.out


def test_a_releaser_of_a_class_of_ones_own_signs_by_its_own_limits(
    fleet: Fleet, deck: Deck, tmp_path: Path
) -> None:
    profile = tmp_path / "cam.toml"
    profile.write_text(ALLOWING_PROFILE, "utf-8")
    asked = proposal(fleet, model=one_if(tmp_path), profiles=[profile])
    assert asked.request is not None
    folder = fleet.exported(asked.request)

    strict = sign(deck, fleet, folder)
    said = sign(deck, fleet, folder, "--profile", str(profile))

    assert strict.code == 1
    assert "If runs subgraphs" in strict.told
    assert said.code == 0, said.err
    assert (folder / "signatures").exists()


@pytest.mark.parametrize("damage", ["gone", "changed"])
@pytest.mark.parametrize("part", ["parts", "targets"])
def test_a_releaser_signs_nothing_whose_files_are_not_what_is_listed(
    fleet: Fleet, deck: Deck, part: str, damage: str
) -> None:
    asked = proposal(fleet)
    assert asked.request is not None
    folder = fleet.exported(asked.request)
    for file in (folder / "attachments" / part).rglob("*"):
        if file.is_file() and damage == "changed":
            file.write_bytes(file.read_bytes()[:-1] + b"!")
        elif file.is_file():
            file.unlink()

    said = sign(deck, fleet, folder)

    assert said.code == 1
    assert "gate_failed" in said.told
    assert "classes/cam/model-1.idx" in said.told
    assert not (folder / "signatures").exists()


def test_a_file_that_was_lost_here_holds_a_release_back_and_loses_nothing(
    fleet: Fleet, deck: Deck
) -> None:
    request = proposal(fleet).request
    assert request is not None
    folder = fleet.exported(request)
    sign(deck, fleet, folder)
    kept = request.attachment(request.terms.attachments[0].name)
    data = kept.read_bytes()
    kept.write_bytes(data[:-1])

    refused = refuses(partial(fleet.imported, request, folder))
    assert refused.code is Code.HOME_INVALID
    assert fleet.versions()["class-cam"] == 1
    kept.write_bytes(data)
    assert isinstance(fleet.imported(request, folder), Committed)


class Ceremony:
    """Changes to a fleet whose keys are all at hand, as holders would make them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.made = 0

    def new(self, *, p256: bool = False) -> Key:
        """Return a new key that is in the home."""
        folder = KeyFolder(self.world.home.keys)
        self.made += 1
        name = f"new-{self.made}"
        if not p256:
            return folder.create(name)
        half = make_key(folder.path, name, "p256", None, self.world.clock.now())
        return half.public()

    def change(self, wanted: Mapping[str, tuple[Sequence[Key], int]]) -> None:
        """Bring other signers into force."""
        repository = self.world.repository
        with repository.exclusive():
            signers = {role: Signers(*who) for role, who in wanted.items()}
            now = self.world.clock.now()
            changed = change_signers(repository.chain(), signers, now)
            outcome = repository.propose(changed, why="a test")
        assert not isinstance(outcome, Request)


def test_a_device_that_slept_through_every_kind_of_change_goes_on(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    assert isinstance(world.device().accept(world.assign(1)), Accepted)
    old = world.assign(2)
    ceremony = Ceremony(world)

    ceremony.change({"root": ([ceremony.new() for _ in range(3)], 2)})
    ceremony.change({"timestamp": ([ceremony.new()], 1)})
    ceremony.change({"targets": ([ceremony.new(p256=True), ceremony.new()], 2)})
    ceremony.change({"class-cam": ([ceremony.new(p256=True)], 1)})
    ceremony.change({"root": ([ceremony.new(p256=True) for _ in range(4)], 3)})
    ceremony.change(
        {role: ([ceremony.new()], 1) for role in ("snapshot", "timestamp", "time")}
    )
    ceremony.change({"director": ([ceremony.new(), ceremony.new(p256=True)], 2)})

    assert world.repository.chain().root.version >= 6
    assert refusal(world.device(), old) is Code.ASSIGNMENT_UNSIGNED
    assert isinstance(world.device().accept(world.assign(3)), Accepted)
