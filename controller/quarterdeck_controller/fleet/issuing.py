"""A device's next certificate, within the transaction that decided it."""

from collections.abc import Sequence
from datetime import datetime

from quarterdeck_controller.fleet.authority import Authority, Issued
from quarterdeck_controller.fleet.requests import ProvenRequest
from quarterdeck_controller.store.records import Certificate, Device
from quarterdeck_controller.store.store import Records


def issue(
    records: Records,
    authority: Authority,
    device: Device,
    proven: ProvenRequest,
    before: Sequence[Certificate],
    *,
    days: float,
    now: datetime,
) -> Issued:
    """Issue and record the next certificate of ``device``; ``before`` are its others.

    The one in use stays until the new one was seen in use. Those that never were are
    retired: their answer was lost, so that a device has two at most. Of a device that
    does not tell which one it uses, none is retired before it expires.
    """
    generation = before[0].generation + 1 if before else 1
    issued = authority.issue_device(proven, device.device_class, generation, days=days)
    counting = [it for it in before if is_open(it, now)]
    if any(it.used_at is not None for it in counting):
        unused = [it.serial for it in counting if it.used_at is None]
        records.certificates.retire(unused, now)
    records.certificates.add([issued.record])
    return issued


def is_open(certificate: Certificate, now: datetime) -> bool:
    """Return whether ``certificate`` admits its device."""
    closed = certificate.revoked_at or certificate.retired_at
    return closed is None and certificate.not_after > now
