"""What somebody else's broker is given: configuration and permissions (pure).

It cannot be told at once of every certificate that a device renews. Each device is
therefore granted some generations that are still to come: nobody but this fleet's
authority can make certificates of them, so that this gives nothing away. What must be
carried over at once is a device that came, was revoked or was replaced.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from quarterdeck_controller.broker import mosquitto, nats
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_shared.bus.port import Endpoint

AHEAD = 3
"""Generations granted beyond the newest: two months of renewals as they are made."""


class Kind(StrEnum):
    """The programs that configurations are written for."""

    MOSQUITTO = "mosquitto"
    NATS = "nats"


def files(
    kind: Kind, folder: Path, host: str, port: int, admission: Admission
) -> Mapping[str, str]:
    """Return the text of each file that the broker is configured with.

    Args:
        kind: Which program it is.
        folder: Where the files will lie on the broker's machine, with ``ca.pem``,
            ``broker.pem`` and ``broker.key``.
        host: Address that it listens at.
        port: Port of MQTT over TLS.
        admission: Who may use it, beside the controller.
    """
    at = Endpoint(
        host, port, folder / "ca.pem", folder / "broker.pem", folder / "broker.key"
    )
    if kind is Kind.NATS:
        return {nats.CONFIG: nats.configuration(folder, at, admission)}
    lists = bool(admission.revocations)
    written = {
        mosquitto.CONFIG: mosquitto.configuration(folder, at, None, revocations=lists),
        mosquitto.PERMISSIONS: mosquitto.permissions(admission),
    }
    if lists:
        written[mosquitto.REVOCATIONS] = admission.revocations.decode("ascii")
    return written


def looking_ahead(
    admitted: Iterable[Grant],
    classes: Mapping[str, str],
    newest: Mapping[str, int],
    ahead: int = AHEAD,
) -> tuple[Grant, ...]:
    """Return the grants of ``admitted`` with those of generations to come.

    Args:
        admitted: Whom the broker must let in now.
        classes: The class of every device that may speak, with a certificate or not.
        newest: The newest generation of each device that ever had a certificate.
        ahead: How many generations beyond that are granted.
    """
    now = {grant.device: grant for grant in admitted}
    return tuple(
        _extended(
            now.get(device) or Grant(device, it, ()), newest.get(device, 0), ahead
        )
        for device, it in sorted(classes.items())
    )


def _extended(grant: Grant, newest: int, ahead: int) -> Grant:
    coming = range(newest + 1, newest + 1 + ahead)
    return replace(grant, generations=(*grant.generations, *coming))
