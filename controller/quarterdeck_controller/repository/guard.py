"""Refuse to serve with keys in the home that belong offline."""

from collections.abc import Mapping, Sequence

from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.keyfile import KeyFile
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.roles import ONLINE
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

_OFFLINE = ("root", "targets", "provenance", "class-")


def check_offline_keys(home: Home, settings: Settings, clock: Clock) -> None:
    """Refuse a home that holds keys of root, targets, classes or provenance.

    Whoever takes over the controller would have them too. Found by their ids in the
    metadata in force, and by their names where the metadata does not know them.

    Raises:
        RejectedError: ``OFFLINE_KEYS_HERE``, unless the settings say that this is a
            test; ``SIGNATURES_MISSING`` while the first metadata is not signed.
    """
    if settings.test:
        return
    found = offline_keys(
        Repository(home, clock).chain(), tuple(KeyFolder(home.keys).files())
    )
    if found:
        told = ", ".join(f"{file} ({role})" for file, role in found.items())
        raise RejectedError(Code.OFFLINE_KEYS_HERE, told)


def offline_keys(chain: Chain, files: Sequence[KeyFile]) -> Mapping[str, str]:
    """Return the files that hold keys which belong offline, and what they sign."""
    owner = {
        keyid: role
        for role in chain.signed()
        if role not in ONLINE
        for keyid in chain.quorum(role).keys
    }
    found = {}
    for file in files:
        keyid = file.keyid()
        if keyid in owner:
            found[str(file.path)] = owner[keyid]
        elif file.name.startswith(_OFFLINE):
            found[str(file.path)] = "by its name"
    return found
