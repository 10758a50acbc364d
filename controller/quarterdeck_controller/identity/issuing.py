"""The next certificates of devices: decided one by one, recorded all at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from quarterdeck_controller.identity.authority import Authority, Issued
from quarterdeck_controller.identity.requests import ProvenRequest
from quarterdeck_controller.store.ledger import Entry
from quarterdeck_controller.store.records import Certificate, Device
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MOST_UNTOLD = 8
"""Certificates that count of a device that never tells which one it came with."""


def is_open(certificate: Certificate, now: datetime) -> bool:
    """Return whether ``certificate`` admits its device."""
    closed = certificate.revoked_at or certificate.retired_at
    return closed is None and certificate.not_after > now


def superfluous(before: Sequence[Certificate], now: datetime) -> tuple[str, ...]:
    """Return the serials that nobody will use when a device gets another certificate.

    They are those that never were seen in use: their answer was lost. So a device has
    two that count at most. Of a device that does not tell which one it uses, only what
    is beyond ``MOST_UNTOLD`` with the next one: the broker is told of each.

    Args:
        before: Those of the device, newest first.
        now: The time.
    """
    counting = [it for it in before if is_open(it, now)]
    if all(it.used_at is None for it in counting):
        return tuple(it.serial for it in counting[MOST_UNTOLD - 1 :])
    return tuple(it.serial for it in counting if it.used_at is None)


@dataclass(slots=True)
class Batch:
    """What one transaction has decided so far, and has yet to record.

    Attributes:
        certificates: Of each device that asks, newest first.
        holders: Which keys have a certificate, and whose.
    """

    authority: Authority
    days: float
    now: datetime
    certificates: dict[str, tuple[Certificate, ...]]
    holders: dict[bytes, str]
    issued: list[Certificate] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    seals: dict[str, bytes | None] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def read(
        cls,
        records: Records,
        authority: Authority,
        proven: Iterable[ProvenRequest],
        *,
        days: float,
        now: datetime,
    ) -> "Batch":
        """Return a batch that knows all that these requests may need.

        What devices have come with until now is settled first: a certificate that is
        in use must not pass for one whose answer was lost.
        """
        asked = tuple(proven)
        devices = {it.device for it in asked}
        records.certificates.settle(now, devices)
        return cls(
            authority,
            days,
            now,
            records.certificates.some(devices),
            records.certificates.holders({it.public_key for it in asked}),
        )

    def of(self, device: str) -> tuple[Certificate, ...]:
        """Return the certificates of ``device``, newest first."""
        return self.certificates.get(device, ())

    def issue(
        self, device: Device, proven: ProvenRequest, act: str, **told: object
    ) -> Issued:
        """Issue the next certificate of ``device``; ``act`` and ``told`` are audited.

        The ones in use stay until the new one was seen in use.

        Raises:
            RejectedError: ``REQUEST_UNPROVEN`` when the key was certified before, for
                whichever device.
        """
        self._check_key_is_new(proven)
        before = self.of(device.id)
        issued = self.authority.issue_device(
            proven,
            device.device_class,
            before[0].generation + 1 if before else 1,
            days=self.days,
        )
        it = issued.record
        self.retired += superfluous(before, self.now)
        self.issued.append(it)
        self.certificates[device.id] = (it, *before)
        self.holders[it.public_key] = device.id
        detail: Mapping[str, object] = {
            "generation": it.generation,
            "serial": it.serial,
            **told,
        }
        subject = f"device:{device.id}"
        self.entries.append(Entry(self.now, act, subject, detail=detail))
        return issued

    def write(self, records: Records) -> None:
        """Record everything."""
        records.certificates.add(self.issued)
        records.certificates.retire(self.retired, self.now)
        records.tokens.use(self.used, self.now)
        for device, key in self.seals.items():
            records.devices.seal_to(device, key)
            # What is assigned to it may hold a key that only its old one opens.
            records.assignments.sign_again(device, self.now)
        if self.entries:
            records.audit.append(*self.entries)

    def _check_key_is_new(self, proven: ProvenRequest) -> None:
        holder = self.holders.get(proven.public_key)
        if holder is not None:
            own = f", of {proven.device}" if holder == proven.device else ""
            raise RejectedError(
                Code.REQUEST_UNPROVEN,
                f"the certificate request: its key has a certificate already{own}",
            )
