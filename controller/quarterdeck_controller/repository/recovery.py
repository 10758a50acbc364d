"""What a thief of an online key could do, and what to check afterwards (pure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from quarterdeck_controller.repository.roles import (
    DIRECTOR,
    ONLINE,
    SNAPSHOT,
    TIME,
    TIMESTAMP,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

ALL = "online"


@dataclass(frozen=True, slots=True)
class Loss:
    """A stolen key.

    Attributes:
        could: What the thief was able to do with it.
        check: Where to look for what they did.
    """

    could: str
    check: str


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        TIMESTAMP: Loss(
            could="keep devices from news for as long as they liked, and show them a "
            "version so high that they refuse yours: under the new key they count "
            "anew. No model could be installed with it",
            check="device list, for devices whose reports are old",
        ),
        SNAPSHOT: Loss(
            could="show devices, with the key of timestamp beside it, older lists of "
            "models, all of them signed by you: under the new key devices count anew",
            check="device list, for devices that run another release than assigned",
        ),
        DIRECTOR: Loss(
            could="tell devices to run any model that is listed for their class; no "
            "other model, and none below the release counter that they had accepted",
            check="device list and device show, for assignments that are not yours; "
            "release revoke takes away what should run nowhere",
        ),
        TIME: Loss(
            could="tell devices that ask for the time one of their liking, as late as "
            "the next expiry of root, targets and snapshot: not later",
            check="device list, for devices that refuse with metadata_expired; they "
            "heal with metadata that expires later, which comes by itself",
        ),
    }
)

LAST = (
    "Find out how the key was read before the next one is: whoever reads one file of "
    "this home can read the others."
)


def together(role: str) -> tuple[str, ...]:
    """Return the roles whose keys are replaced when that of ``role`` was stolen.

    Timestamp and snapshot go together: their keys lie in one folder, and versions that
    a thief has raised are forgotten by devices only as far as keys were replaced.

    Raises:
        RejectedError: ``NOT_ALLOWED`` for a role that is not online.
    """
    if role == ALL:
        return ONLINE
    if role in (SNAPSHOT, TIMESTAMP):
        return (SNAPSHOT, TIMESTAMP)
    if role in ONLINE:
        return (role,)
    raise RejectedError(
        Code.NOT_ALLOWED,
        f"{role} is not signed with keys of the controller; replace a stolen key of it "
        "with quarterdeck key revoke or rotate",
    )


def advice(roles: Sequence[str]) -> tuple[str, ...]:
    """Return what the thief could do, and what to check, a sentence each."""
    told = [
        line
        for role in roles
        for line in (
            f"Who had the key of {role} could {LOSSES[role].could}.",
            f"Check: quarterdeck {LOSSES[role].check}.",
        )
    ]
    return (*told, LAST)
