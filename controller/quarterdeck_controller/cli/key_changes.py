"""The ``key`` commands that change who signs for what.

Each makes new metadata and takes the one way into force (``Repository.propose``): at
once where the keys are here, as a request where they are elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from securesystemslib.signer import Key
from tuf.api.metadata import Signed

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.key_text import outcome_json, print_outcome
from quarterdeck_controller.cli.opened import Opened, opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json
from quarterdeck_controller.founding import add_class_to_settings
from quarterdeck_controller.repository import changes
from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.changes import Signers, change_signers
from quarterdeck_controller.repository.expiry import key_rows
from quarterdeck_controller.repository.keyfile import PublicHalf
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.recovery import advice, together
from quarterdeck_controller.repository.repository import Committed, Repository
from quarterdeck_controller.repository.roles import ONLINE, class_role
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

RoleArgument = Annotated[
    str, typer.Argument(help="root, targets, class-<class>, provenance, director, ...")
]
WithOption = Annotated[
    list[Path] | None,
    typer.Option("--with", help="The public half of a new key; may be given often."),
]
Build = Callable[[Chain, "Fresh"], Mapping[str, Signed]]


def register(app: typer.Typer) -> None:
    """Add the commands to ``quarterdeck key``."""
    for verb, command in (
        ("rotate", rotate),
        ("add", add),
        ("revoke", revoke),
        ("threshold", threshold),
        ("add-class", add_class),
        ("recover", recover),
    ):
        app.command(verb)(command)


def rotate(
    role: RoleArgument,
    *,
    halves: WithOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Give a role new keys in place of all it has; those of online roles are made."""
    given = _halves(halves)

    def build(chain: Chain, fresh: "Fresh") -> Mapping[str, Signed]:
        keys = given or fresh.keys(role, count=len(chain.quorum(role).keys))
        wanted = {role: changes.rotated(chain, role, keys)}
        return change_signers(chain, wanted, fresh.now)

    with opened(home, Act.KEY_CHANGE) as it:
        _change(it, role, f"new keys for {role}", build, as_json=as_json)


def add(
    role: RoleArgument,
    *,
    halves: WithOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Let one more key sign for a role."""
    given = _halves(halves)
    if len(given) != 1:
        raise RejectedError(Code.NOT_ALLOWED, "name one key: --with NAME.pub")
    _with_signers(
        home,
        role,
        f"one more key for {role}",
        lambda chain: changes.with_key(chain, role, given[0]),
        as_json=as_json,
    )


def revoke(
    role: RoleArgument,
    key: Annotated[str, typer.Argument(help="Its name, or how its id begins.")],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Let a key no longer sign for a role."""
    _with_signers(
        home,
        role,
        f"{key} may no longer sign for {role}",
        lambda chain: changes.without_key(chain, role, key),
        as_json=as_json,
    )


def threshold(
    role: RoleArgument,
    count: Annotated[int, typer.Argument(metavar="N", help="How many must sign.")],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Change how many of a role's keys must sign."""
    _with_signers(
        home,
        role,
        f"{role} is signed by {count}",
        lambda chain: changes.with_threshold(chain, role, count),
        as_json=as_json,
    )


def add_class(
    device_class: Annotated[str, typer.Argument(metavar="CLASS", help="Its name.")],
    *,
    halves: WithOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Give a further device class its signing role."""
    if not is_name(device_class):
        raise RejectedError(Code.NAME_INVALID, f"{device_class!r} cannot name a class")
    given, role = _halves(halves), class_role(device_class)

    def build(chain: Chain, fresh: "Fresh") -> Mapping[str, Signed]:
        keys = given or fresh.keys(role, count=1)
        return changes.add_class(chain, device_class, keys, fresh.now)

    with opened(home, Act.KEY_CHANGE) as it:
        has_role = role in Repository(it.home, it.clock).chain().delegated
        if has_role and device_class not in it.home.settings().classes:
            add_class_to_settings(it.home, device_class)  # what a crash has left out
            done = Committed((role,))
            print_json(outcome_json(done, ())) if as_json else print_outcome(done, ())
            return
        _change(
            it, role, f"a role for the class {device_class}", build, as_json=as_json
        )
        add_class_to_settings(it.home, device_class)


def recover(
    role: Annotated[
        str, typer.Argument(help="snapshot, timestamp, director, time, or online: all.")
    ],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Replace a stolen key of an online role, and tell what the thief could do."""
    roles = together(role)

    def build(chain: Chain, fresh: "Fresh") -> Mapping[str, Signed]:
        wanted = {
            name: changes.rotated(
                chain, name, fresh.keys(name, count=len(chain.quorum(name).keys))
            )
            for name in roles
        }
        return change_signers(chain, wanted, fresh.now)

    with opened(home, Act.KEY_CHANGE) as it:
        why = f"the keys of {', '.join(roles)} may be stolen"
        _change(it, role, why, build, as_json=as_json)
    if not as_json:
        for line in advice(roles):
            out.print(f"  {line}", markup=False)


class Fresh:
    """Keys that are made here for a change; gone again when it is refused."""

    def __init__(self, it: Opened) -> None:
        self._folder = KeyFolder(it.home.keys)
        self._test = it.home.settings().test
        self._made: list[Path] = []
        self.now = it.clock.now()

    def keys(self, role: str, *, count: int) -> Sequence[Key]:
        """Return new keys whose private halves are in the home.

        Raises:
            RejectedError: ``NOT_ALLOWED`` for a role whose keys belong elsewhere.
        """
        if role not in ONLINE and not self._test:
            raise RejectedError(
                Code.NOT_ALLOWED,
                f"the keys of {role} are made where they are kept (quarterdeck key "
                "create): bring their public halves with --with",
            )
        return [self._create(role) for _ in range(count)]

    def forget(self) -> None:
        """Remove what was made."""
        for file in self._made:
            file.unlink(missing_ok=True)

    def _create(self, role: str) -> Key:
        name = self._folder.free_name(role)
        key = self._folder.create(name)
        self._made.append(self._folder.file(name))
        return key


def _with_signers(
    home: Path,
    role: str,
    why: str,
    signers: Callable[[Chain], Signers],
    *,
    as_json: bool,
) -> None:
    def build(chain: Chain, fresh: Fresh) -> Mapping[str, Signed]:
        return change_signers(chain, {role: signers(chain)}, fresh.now)

    with opened(home, Act.KEY_CHANGE) as it:
        _change(it, role, why, build, as_json=as_json)


def _change(it: Opened, role: str, why: str, build: Build, *, as_json: bool) -> None:
    repository, fresh = Repository(it.home, it.clock), Fresh(it)
    it.audit(f"role:{role}", why=why)
    with repository.exclusive():
        try:
            outcome = repository.propose(build(repository.chain(), fresh), why=why)
        except BaseException:
            fresh.forget()
            raise
        lacks = () if isinstance(outcome, Committed) else repository.lacks(outcome)
    if as_json:
        print_json(outcome_json(outcome, lacks))
        return
    print_outcome(outcome, lacks)
    if isinstance(outcome, Committed):
        _print_idle(it, repository)


def _print_idle(it: Opened, repository: Repository) -> None:
    rows = key_rows(repository.chain(), KeyFolder(it.home.keys).known())
    idle = [row.where for row in rows if row.role is None]
    if idle:
        out.print(
            f"Delete what signs nothing any more: {', '.join(idle)}", markup=False
        )


def _halves(files: Sequence[Path] | None) -> list[Key]:
    return [PublicHalf.read(file).public() for file in files or ()]
