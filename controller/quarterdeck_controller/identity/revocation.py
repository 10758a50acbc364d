"""Shut devices out, and give their names to new hardware.

Both only write the store, so that they work while no controller runs: the one that
runs, or that is started next, carries them out at the broker (``admission.py``).
"""

from datetime import datetime

from quarterdeck_controller.store.records import Device
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_WHY = 200
REPLACED = "replaced by new hardware"


def revoke(records: Records, device: str, why: str, *, now: datetime) -> Device:
    """Shut ``device`` out for good, and return it as it was before.

    Its certificates, its open invitation and what it was assigned are taken back. To
    revoke it again changes nothing.

    Raises:
        RejectedError: ``NOT_FOUND``, or ``NOT_ALLOWED`` without a reason.
    """
    before = found(records, device)
    if not why.strip() or len(why) > MAX_WHY:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"a reason of {len(why)} characters; give one of 1 to {MAX_WHY}",
        )
    if before.revoked_at is None:
        records.devices.revoke(device, why, now)
        _take_back(records, device, why, now)
        records.assignments.withdraw([device])
    return before


def make_room(records: Records, device: str, *, now: datetime) -> Device:
    """Have new hardware take the place of ``device``; invite it afterwards.

    What the old hardware could prove itself with is taken back. Name, class, tags,
    history and what is assigned stay; of a device that was revoked nothing is assigned.

    Raises:
        RejectedError: ``NOT_FOUND``.
    """
    found(records, device)
    _take_back(records, device, REPLACED, now)
    records.devices.readmit(device)
    return found(records, device)


def found(records: Records, device: str) -> Device:
    """Return the device of that id.

    Raises:
        RejectedError: ``NOT_FOUND``.
    """
    it = records.devices.get(device)
    if it is None:
        raise RejectedError(Code.NOT_FOUND, f"no device {device}")
    return it


def _take_back(records: Records, device: str, why: str, now: datetime) -> None:
    records.certificates.revoke([device], why, now)
    records.tokens.withdraw([device], now)
