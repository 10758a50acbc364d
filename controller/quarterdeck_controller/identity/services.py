"""The certificates of the controller and its broker, kept valid and truthful."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from quarterdeck_controller.broker.port import Broker
from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.store.ledger import Entry
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError

LOOK_EVERY_S = 3600.0
ISSUING_SOON = timedelta(days=400)
"""What is issued for a year must not outlive who issued it."""

ISSUE = "certificate.issue"
_LOOPBACK = ("localhost", "127.0.0.1")
_log = logging.getLogger(__name__)


class ServiceKeeper:
    """Renews both certificates while the controller runs, for as long as it runs."""

    def __init__(
        self, home: Home, store: Store, broker: Broker | None, clock: Clock
    ) -> None:
        """Take the parts; ``broker`` is None for one that is somebody else's."""
        self._home = home
        self._store = store
        self._broker = broker
        self._clock = clock

    async def run(self) -> None:
        """Renew what is due, again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.renew()
            except QuarterdeckError as error:
                _log.warning("event=services_held code=%s %s", error.code, error.detail)

    async def renew(self) -> tuple[str, ...]:
        """Renew what is due and return for whom; a broker of ours takes its own up.

        The controller comes with its new one when its session is next opened. Each
        new one is in the audit log.

        Raises:
            RejectedError: Those of ``ensure_services``, or of a broker that does not
                start again.
            QuarterdeckError: The log cannot be written; all else is done then.
        """
        settings = self._home.settings()
        issued = await asyncio.to_thread(
            ensure_services, self._home, settings, self._clock
        )
        await asyncio.to_thread(self._warn_of_issuing)
        try:
            if issued:
                await asyncio.to_thread(self._record, issued)
        finally:
            if "broker" in issued:
                await self._take_up()
        return issued

    def _record(self, issued: Sequence[str]) -> None:
        now = self._clock.now()
        entries = []
        for name in issued:
            pem = (self._home.authority / f"{name}.pem").read_bytes()
            leaf = x509.load_pem_x509_certificate(pem)
            detail = {
                "serial": f"{leaf.serial_number:x}",
                "ends": leaf.not_valid_after_utc.isoformat(timespec="seconds"),
            }
            entries.append(Entry(now, ISSUE, f"certificate:{name}", detail=detail))
            _log.info("event=certificate_issued for=%s", name)
        with self._store.write() as records:
            records.audit.append(*entries)

    async def _take_up(self) -> None:
        if self._broker is not None:
            await self._broker.restart()
        else:
            _log.warning(
                "event=broker_certificate_issued: give your broker the new files"
                " broker.pem and broker.key of %s",
                self._home.authority,
            )

    def _warn_of_issuing(self) -> None:
        ends = Authority.open(self._home.authority, self._clock).expires
        if ends < self._clock.now() + ISSUING_SOON:
            _log.warning(
                "event=issuing_ends at=%s: nothing it issued is valid after that; with"
                " the root's key: quarterdeck key authority-renew",
                ends.isoformat(timespec="seconds"),
            )


def ensure_services(home: Home, settings: Settings, clock: Clock) -> tuple[str, ...]:
    """Issue what is missing, near its end or not for the broker's host; name it.

    Call it before the broker starts: a host that was changed in the settings, or a
    year that has passed, would otherwise lock out every device.

    Raises:
        RejectedError: ``HOME_INVALID`` when the authority cannot be used,
            ``NAME_INVALID`` when the host cannot be in a certificate.
    """
    folder, now = home.authority, clock.now()
    authority, hosts = Authority.open(folder, clock), server_hosts(settings)
    issued = []
    if _is_stale(folder, "broker", hosts, now):
        identity = authority.issue_server(hosts)
        identity.write(folder / "broker.pem", folder / "broker.key")
        issued.append("broker")
    if _is_stale(folder, "controller", (), now):
        identity = authority.issue_controller()
        identity.write(folder / "controller.pem", folder / "controller.key")
        issued.append("controller")
    return tuple(issued)


def server_hosts(settings: Settings) -> tuple[str, ...]:
    """Return the names and addresses that the broker's certificate must carry."""
    host = settings.broker.host
    return (host, *(name for name in _LOOPBACK if name != host))


def stale(pem: bytes | None, hosts: Sequence[str], now: datetime) -> bool:
    """Return whether a certificate is unreadable, two thirds over, or lacks a host."""
    try:
        leaf = x509.load_pem_x509_certificate(pem or b"")
    except ValueError:
        return True
    span = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    if now >= leaf.not_valid_before_utc + span * 2 / 3:
        return True
    return not set(hosts) <= _names(leaf)


def _is_stale(folder: Path, name: str, hosts: Sequence[str], now: datetime) -> bool:
    pem, key = _read(folder / f"{name}.pem"), _read(folder / f"{name}.key")
    return stale(pem, hosts, now) or not _belongs(pem, key)


def _belongs(pem: bytes | None, key: bytes | None) -> bool:
    # A crash between the two files leaves a key of one identity beside another's.
    leaf = x509.load_pem_x509_certificate(pem or b"")
    try:
        public = load_pem_private_key(key or b"", password=None).public_key()
    except (ValueError, TypeError):
        return False
    return public == leaf.public_key()


def _names(leaf: x509.Certificate) -> set[str]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in extension.value}


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
