"""Make a fleet home: all of it, or nothing."""

import glob
import json
import os
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from securesystemslib.signer import Key

from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.services import ensure_services
from quarterdeck_controller.repository.drafts import first
from quarterdeck_controller.repository.keyfile import PublicHalf
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.roles import (
    DIRECTOR,
    KEY_ROLES,
    ONLINE,
    PROVENANCE,
    ROOT,
    ROOT_KEYS,
    ROOT_THRESHOLD,
    SNAPSHOT,
    TARGETS,
    TIME,
    TIMESTAMP,
    class_role,
    key_names,
)
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, sync_folder, write_durable
from quarterdeck_shared.errors import RejectedError


def create_home(
    path: Path,
    settings: Settings,
    clock: Clock,
    *,
    halves: Mapping[str, Sequence[PublicHalf]] = MappingProxyType({}),
) -> Home:
    """Make the fleet home at ``path``: keys, authority, repository, database, settings.

    It is built in a folder beside and renamed when it is complete. A test home gets
    all keys; another gets those of the online roles, ``halves`` brings the public
    halves of all others by role, and its first metadata waits as a request.

    Raises:
        RejectedError: ``CONFLICT`` when ``path`` exists and is not an empty folder, or
            cannot be written; ``NOT_ALLOWED`` when a role has too few keys.
    """
    path = path.absolute()
    _refuse_existing(path)
    _sweep(path)
    beside = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir(mode=0o700)
        _fill(Home(beside), settings, clock, halves)
        beside.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RejectedError(
            disk_code(error),
            f"{path} cannot be made: {error.strerror}",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Home.open(path)


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """One key: what it signs, where it is now, where it should live in earnest."""

    name: str
    signs: str
    file: Path
    earnest: str


def key_places(home: Home, classes: Sequence[str]) -> tuple[KeyPlace, ...]:
    """Return every key of a new home, the most powerful first."""
    offline, here = "offline, encrypted", "here, backed up"
    held = ("all roles' keys, 2 of 3", "offline, 3 holders")
    rows = [
        *((name, *held) for name in ROOT_KEYS),
        (TARGETS, "keys of classes, director", offline),
        *((class_role(name), "models of its class", "a releaser's machine")
          for name in classes),
        (SNAPSHOT, "what belongs together", here),
        (TIMESTAMP, "what is newest, daily", here),
        (DIRECTOR, "which device runs what", here),
        (TIME, "the time, for devices that ask", here),
        (PROVENANCE, "how variants were made", "where models are optimized"),
    ]  # fmt: skip
    signing = (
        KeyPlace(name, signs, home.keys / f"{name}.pem", earnest)
        for name, signs, earnest in rows
    )
    authority = home.authority
    return (
        *signing,
        KeyPlace(
            "authority root", "the issuing certificate", authority / "root.key", offline
        ),
        KeyPlace("issuing", "all certificates", authority / "issuing.key", here),
        KeyPlace("controller", "its session", authority / "controller.key", here),
        KeyPlace("broker", "its sessions", authority / "broker.key", "the broker"),
    )


def _refuse_existing(path: Path) -> None:
    if (path / "settings.toml").exists():
        raise RejectedError(Code.CONFLICT, f"{path} is a fleet home already")
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise RejectedError(
            Code.CONFLICT, f"{path} exists and is not an empty folder; name another"
        )


def _sweep(path: Path) -> None:
    """Remove what an attempt that was killed has left: it holds private keys."""
    for beside in path.parent.glob(f".{glob.escape(path.name)}.new-*"):
        process = beside.name.rpartition("-")[2]
        if process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(beside, ignore_errors=True)


def _fill(
    home: Home,
    settings: Settings,
    clock: Clock,
    halves: Mapping[str, Sequence[PublicHalf]],
) -> None:
    for folder in (home.keys, home.authority, home.broker):
        folder.mkdir(mode=0o700)
    for folder in (home.repository, home.parts, home.logs):
        folder.mkdir()
    Authority.create(home.authority, settings.fleet, clock)
    ensure_services(home, settings, clock)
    _sign_first(home, settings, clock, halves)
    Store.open(home.database).close()
    write_durable(home.settings_file, render(settings).encode())


def _sign_first(
    home: Home,
    settings: Settings,
    clock: Clock,
    halves: Mapping[str, Sequence[PublicHalf]],
) -> None:
    keys = _keys(home, settings, halves)
    changed = first(keys, settings.classes, clock.now())
    repository = Repository(home, clock)
    with repository.exclusive():
        repository.propose(changed, why=f"the first metadata of {settings.fleet}")


def _keys(
    home: Home, settings: Settings, halves: Mapping[str, Sequence[PublicHalf]]
) -> dict[str, list[Key]]:
    folder, keys = KeyFolder(home.keys), {}
    classes = (class_role(name) for name in settings.classes)
    for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP, *KEY_ROLES, *classes):
        if settings.test or role in ONLINE:
            keys[role] = [folder.create(name) for name in key_names(role)]
        else:
            keys[role] = [half.public() for half in halves.get(role, ())]
        need = ROOT_THRESHOLD if role == ROOT else 1
        if len(keys[role]) < need:
            raise RejectedError(
                Code.NOT_ALLOWED,
                f"{role} needs {need} key(s), {len(keys[role])} public halves of it "
                "were given. quarterdeck key create makes each where it is kept; "
                "for a test, init --test makes all of them here",
            )
    _check_distinct(keys[ROOT])
    return keys


def _check_distinct(keys: Sequence[Key]) -> None:
    if len({key.keyid for key in keys}) < len(keys):
        raise RejectedError(Code.NOT_ALLOWED, "one key of root was given twice")


def halves_by_role(
    halves: Sequence[PublicHalf], classes: Sequence[str]
) -> dict[str, list[PublicHalf]]:
    """Return public halves by the role that their names tell.

    A name is the role's, or the role's and a number: ``root-1``, ``targets``,
    ``class-cam``, ``class-cam-2``.

    Raises:
        RejectedError: ``NAME_INVALID`` for a name that tells no role whose keys are
            brought, ``CONFLICT`` for two halves of one name.
    """
    roles = (ROOT, TARGETS, PROVENANCE, *(class_role(name) for name in classes))
    found: dict[str, list[PublicHalf]] = {}
    for half in halves:
        role = _role_named(half.name, roles)
        if any(half.name == other.name for other in found.get(role, ())):
            raise RejectedError(Code.CONFLICT, f"two keys are called {half.name}")
        found.setdefault(role, []).append(half)
    return found


def _role_named(name: str, roles: Sequence[str]) -> str:
    for role in sorted(roles, key=len, reverse=True):
        rest = name.removeprefix(role)
        if name.startswith(role) and re.fullmatch(r"(-[0-9]{1,4})?", rest):
            return role
    raise RejectedError(
        Code.NAME_INVALID,
        f"the key {name} is named for none of {', '.join(roles)} (a number may follow: "
        "root-1)",
    )


def render(settings: Settings) -> str:
    """Return ``settings.toml`` with a comment for whoever reads it."""
    broker = settings.broker
    lines = [
        "# The settings of this fleet. Read when the controller starts.",
        "v = 1",
        "",
        "# Name of the fleet, as in its certificates.",
        f"fleet = {_quoted(settings.fleet)}",
        "",
        "# Classes that have a signing role; quarterdeck key add-class adds one.",
        f"classes = [{', '.join(_quoted(name) for name in settings.classes)}]",
        "",
        "# Bytes of a chunk of new releases. Larger ones delay other messages.",
        f"chunk_bytes = {settings.chunk_bytes}",
        "",
        "# Most bytes of chunks published a second; 0 is no limit.",
        f"transfer_bytes_s = {settings.transfer_bytes_s}",
        "",
        "# Days that a signed assignment may be acted on.",
        f"assignment_days = {settings.assignment_days}",
        "",
        "# Days that a device's certificate is valid; it renews itself at two thirds.",
        f"certificate_days = {settings.certificate_days}",
        "",
        "# Whether keys that belong offline may be in this home: only for a test.",
        f"test = {str(settings.test).lower()}",
        "",
        "[broker]",
        "# nats and mosquitto are started by the controller; external is yours.",
        f"kind = {_quoted(broker.kind)}",
        "",
        "# The address that devices reach; the broker's certificate names it.",
        f"host = {_quoted(broker.host)}",
        f"port = {broker.port}",
        "",
        "# For a broker that asks for a password beside the certificate.",
        _optional("username", broker.username),
        _optional("password_file", broker.password_file),
    ]
    return "\n".join(lines) + "\n"


_CLASSES = re.compile(r"^classes\s*=\s*\[[^\]]*\]", re.MULTILINE)


def add_class_to_settings(home: Home, device_class: str) -> None:
    """Name a further class in ``settings.toml``, and change nothing else there.

    Raises:
        RejectedError: ``HOME_INVALID`` when the line cannot be found; ``DISK_FULL`` or
            ``DISK_FAILED`` when it cannot be written.
    """
    old = home.settings()
    if device_class in old.classes:
        return
    classes = (*old.classes, device_class)
    line = f"classes = [{', '.join(_quoted(name) for name in classes)}]"
    text = _CLASSES.sub(line, home.settings_file.read_text("utf-8"), count=1)
    new = old.model_copy(update={"classes": classes})
    if Settings.model_validate(tomllib.loads(text)) != new:
        raise RejectedError(
            Code.HOME_INVALID,
            f"{home.settings_file}: write the line yourself: {line}",
        )
    try:
        write_durable(home.settings_file, text.encode())
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{home.settings_file}: {error.strerror}"
        ) from error


def _quoted(text: str) -> str:
    # A JSON string of printable characters is a TOML basic string too.
    return json.dumps(text).replace("\x7f", "\\u007f")


def _optional(name: str, value: object) -> str:
    return f'# {name} = ""' if value is None else f"{name} = {_quoted(str(value))}"
