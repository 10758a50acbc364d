"""A fleet whose keys are elsewhere: holders on their own machines, folders between."""

import copy
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from quarterdeck_controller.founding import create_home, halves_by_role
from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.repository.changes import (
    Signers,
    change_signers,
    with_key,
)
from quarterdeck_controller.repository.exported import (
    by_role,
    export,
    keep_answer,
    read_answers,
    read_exported,
    sign,
)
from quarterdeck_controller.repository.keyfile import KeyFile, PublicHalf, make_key
from quarterdeck_controller.repository.repository import Committed, Repository
from quarterdeck_controller.repository.requests import Request
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import NOW, ManualClock

OFFLINE = ("root-1", "root-2", "root-3", "targets", "provenance", "class-cam")


class Fleet:
    """A home without offline keys, and the machines of those who hold them.

    The machines are folders; what passes between them is what was exported.
    """

    def __init__(self, folder: Path, *, begun: bool = True) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.halves = {name: self.new_key(name) for name in OFFLINE}
        settings = Settings(fleet="earnest", classes=("cam",), chunk_bytes=1024)
        self.home: Home = create_home(
            folder / "home",
            settings,
            self.clock,
            halves=halves_by_role(tuple(self.halves.values()), settings.classes),
        )
        self.repository = Repository(self.home, self.clock)
        self.carried = 0
        if begun:
            (request,) = self.repository.requests()
            outcome = self.signed(request, *OFFLINE)
            assert isinstance(outcome, Committed)

    def new_key(self, name: str) -> PublicHalf:
        """Make a key on its holder's machine; only the public half is returned."""
        return make_key(self.machine(name), name, "ed25519", None, self.clock.now())

    def machine(self, name: str) -> Path:
        """Return the folder that only the holder of ``name`` sees."""
        return self.folder / f"machine-of-{name}"

    def key(self, name: str) -> KeyFile:
        """Return the key of that holder."""
        return KeyFile(self.machine(name) / f"{name}.pem")

    def exported(self, request: Request) -> Path:
        """Return a folder that holds ``request``, on its way to a holder."""
        self.carried += 1
        folder = self.folder / "carried" / str(self.carried)
        with self.repository.exclusive():
            export(request, self.repository.in_force(), folder)
        return folder

    def answer(
        self,
        folder: Path,
        name: str,
        *,
        key: KeyFile | None = None,
        secret: str | None = None,
    ) -> None:
        """Have a holder sign what is in ``folder``."""
        exported = read_exported(folder)
        signer = (key or self.key(name)).signer(lambda _: secret)
        roles = exported.may_sign(signer.public_key.keyid)
        keep_answer(folder, sign(exported, signer, roles))

    def imported(self, request: Request, folder: Path) -> Committed | Request:
        """Take in what came back."""
        with self.repository.exclusive():
            open_ = self.repository.request(request.id)
            return self.repository.accept(open_, by_role(read_answers(folder)))

    def signed(self, request: Request, *names: str) -> Committed | Request:
        """Have these holders sign, each from a folder of their own."""
        outcome: Committed | Request = request
        for name in names:
            folder = self.exported(request)
            self.answer(folder, name)
            outcome = self.imported(request, folder)
        return outcome

    def versions(self) -> Mapping[str, int]:
        """Return the version of every role that is in force."""
        chain = self.repository.chain()
        return {role: signed.version for role, signed in chain.signed().items()}

    def files(self) -> Sequence[str]:
        """Return the names of all files of signed metadata."""
        return sorted(file.name for file in self.home.repository.glob("*.json"))


_KEPT = TemporaryDirectory(prefix="quarterdeck-fleets-")


@functools.cache
def _original() -> Fleet:
    return Fleet(Path(_KEPT.name, "fleet"))


def copied_fleet(path: Path) -> Fleet:
    """Return a copy of a fleet that has begun, made once for all tests."""
    original = _original()
    shutil.copytree(original.folder, path)
    fleet = copy.copy(original)
    fleet.folder, fleet.clock = path, ManualClock()
    fleet.home = Home.open(path / "home")
    fleet.repository = Repository(fleet.home, fleet.clock)
    return fleet


def proposed(fleet: Fleet, role: str, signers: Signers) -> Request:
    """Ask for other signers of ``role``."""
    with fleet.repository.exclusive():
        chain = fleet.repository.chain()
        changed = change_signers(chain, {role: signers}, NOW)
        outcome = fleet.repository.propose(changed, why=f"a change of {role}")
    assert isinstance(outcome, Request)
    return outcome


def one_more_root(fleet: Fleet) -> Request:
    """Ask for a fourth key of root."""
    key = fleet.new_key("root-4").public()
    return proposed(fleet, "root", with_key(fleet.repository.chain(), "root", key))


def refuses(action: Callable[[], object]) -> RejectedError:
    """Return the refusal of ``action``."""
    with pytest.raises(RejectedError) as refusal:
        action()
    return refusal.value
