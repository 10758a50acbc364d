"""Who may use the broker now, kept true while the controller runs.

Whoever may come in is what the store says, and nothing else: devices that were not
revoked, each with the certificates that count, and the claims that still have a use.
Commands write the store; this loop sees the change within a second, has the broker
admit exactly those who remain, and then ends the sessions of those who do not, in that
order, so that nobody comes back in between. It notes which certificates devices came
with, and retires the ones before. The list of revocations is for brokers that read one;
it is signed anew at least daily, and good for a month, because a broker that holds an
expired one lets nobody in.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

from cryptography import x509

from quarterdeck_controller.broker.port import Admission, Broker, Grant
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.revocation_list import Revoked
from quarterdeck_controller.store.identity import Live, Session
from quarterdeck_controller.store.records import Certificate, Claim
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Bus, Handler, Message, Will
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import QuarterdeckError

LOOK_EVERY_S = 1.0
"""How soon a change that another process made is carried out."""

AGAIN_EVERY_S = 300.0
"""How soon what only time changes is: certificates and claims that expire."""

LIST_EVERY = timedelta(days=1)
LIST_FILE = "revocations.pem"
KEEP = timedelta(days=400)
"""How long certificates are kept after they expired."""

_log = logging.getLogger(__name__)


def admission(
    live: Iterable[Live], claims: Sequence[str], revocations: bytes = b""
) -> Admission:
    """Return whom the broker must let in; ``live`` is sorted by device."""
    grants = []
    for (device, device_class), those in groupby(
        live, key=lambda it: (it.device, it.device_class)
    ):
        generations = tuple(it.generation for it in those)
        grants.append(Grant(device, device_class, generations))
    return Admission(tuple(grants), tuple(claims), revocations)


def ended(
    certificates: Iterable[Certificate], claims: Iterable[Claim]
) -> tuple[Revoked, ...]:
    """Return what a list of revocations must name: what ended before it expired."""
    devices = (
        Revoked(it.serial, moment, replaced=it.revoked_at is None)
        for it in certificates
        if (moment := it.revoked_at or it.retired_at) is not None
    )
    over = (Revoked(it.serial, it.created_at) for it in claims)
    return (*devices, *over)


class Revocations:
    """The list of revocations: signed when it changed, and at least daily."""

    def __init__(self, authority: Authority, folder: Path, clock: Clock) -> None:
        self._authority = authority
        self._file = folder / LIST_FILE
        self._clock = clock
        self._of: tuple[Revoked, ...] | None = None
        self._at: datetime | None = None
        self._pem = b""

    def list(self, revoked: tuple[Revoked, ...]) -> bytes:
        """Return the list (PEM) that names ``revoked``; it is written to its file too.

        A file that cannot be written is told of and tried again at the next change.
        """
        now = self._clock.now()
        is_old = self._at is None or now >= self._at + LIST_EVERY
        if revoked != self._of or is_old:
            self._pem = self._authority.revocation_list(revoked)
            self._of, self._at = revoked, now
            try:
                write_durable(self._file, self._pem)
            except OSError as error:
                _log.warning("event=revocations_unwritten %s: %s", self._file, error)
        return self._pem


def list_ends(folder: Path) -> datetime | None:
    """Return when the published list of revocations ends; None when there is none."""
    try:
        return x509.load_pem_x509_crl((folder / LIST_FILE).read_bytes()).next_update_utc
    except (OSError, ValueError):
        return None


class Allowed:
    """Says whether a device may speak: one that was revoked may not."""

    def __init__(self, revoked: Iterable[str] = ()) -> None:
        self._revoked = frozenset(revoked)

    def __call__(self, device: str) -> bool:
        """Return whether what ``device`` sends counts."""
        return device not in self._revoked

    def update(self, revoked: Iterable[str]) -> None:
        """Take note of all devices that were revoked."""
        self._revoked = frozenset(revoked)


class GuardedBus:
    """A session on which nothing is heard of devices that may not speak.

    A broker that was not told yet, or is somebody else's, may go on delivering what
    they send: here it ends, for every listener.
    """

    def __init__(self, bus: Bus, allowed: Callable[[str], bool]) -> None:
        self._bus = bus
        self._allowed = allowed

    @property
    def connected(self) -> bool:
        """Whether the session is up now."""
        return self._bus.connected

    @property
    def trouble(self) -> QuarterdeckError | None:
        """Why the last attempt to connect failed; None while connected."""
        return self._bus.trouble

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called each time the session has come up."""
        self._bus.on_connected(callback)

    def on_disconnected(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called each time the session has been lost."""
        self._bus.on_disconnected(callback)

    def set_will(self, make: Callable[[int], Will]) -> None:
        """Have ``make`` called with the connection's number before each connect."""
        self._bus.set_will(make)

    async def start(self) -> None:
        """Begin to connect, and return without waiting for it."""
        await self._bus.start()

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once the session is up."""
        await self._bus.wait_connected(timeout_s)

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False
    ) -> None:
        """Publish at QoS 1 and return when the broker has acknowledged."""
        await self._bus.publish(topic, payload, retain=retain)

    def publish_fast(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0, or return False and send nothing."""
        return self._bus.publish_fast(topic, payload)

    async def subscribe(self, pattern: str, handler: Handler, *, qos: int = 1) -> None:
        """Have ``handler`` called for what matches and comes from who may speak."""

        def heard(message: Message) -> None:
            origin = topics.parse_up(message.topic)
            if origin is None or self._allowed(origin.device):
                handler(message)

        await self._bus.subscribe(pattern, heard, qos=qos)

    async def unsubscribe(self, pattern: str) -> None:
        """Stop hearing ``pattern``."""
        await self._bus.unsubscribe(pattern)

    async def reconnect(self) -> None:
        """End the session cleanly, and have another opened at once."""
        await self._bus.reconnect()

    async def close(self) -> None:
        """Disconnect cleanly, and stop reconnecting."""
        await self._bus.close()


@dataclass(frozen=True, slots=True)
class _Seen:
    admission: Admission
    classes: dict[str, str]
    revoked: tuple[str, ...]


class Doorkeeper:
    """Keeps the broker's permissions as the store has them."""

    def __init__(
        self,
        store: Store,
        broker: Broker | None,
        revocations: Revocations,
        clock: Clock,
        *,
        allowed: Allowed,
    ) -> None:
        """Take the parts.

        Args:
            store: What counts.
            broker: Ours; None for one that is somebody else's.
            revocations: Signs the list.
            clock: When certificates expire.
            allowed: Told of every device that was revoked.
        """
        self.broker = broker
        self.allowed = allowed
        self._store = store
        self._revocations = revocations
        self._clock = clock
        self._changing = asyncio.Lock()
        self._asked = self._done = 0
        self._revision: int | None = None
        self.classes: dict[str, str] = {}
        """The class of every device that may speak."""

    def read(self) -> Admission:
        """Return whom the broker must let in now, and take note of who may speak.

        Raises:
            QuarterdeckError: The store is busy or damaged.
        """
        now = self._clock.now()
        with self._store.read() as records:
            revision = records.revisions.identity()
            seen = _look(records, self._revocations, now)
        self.allowed.update(seen.revoked)
        self.classes = seen.classes
        self._revision = revision
        return seen.admission

    async def admit(self) -> None:
        """Return once the broker lets in whom the store says, at the time of the call.

        Many calls at once are served by one change.

        Raises:
            QuarterdeckError: The store or the broker could not be had.
        """
        self._asked = mine = self._asked + 1
        async with self._changing:
            if self._done >= mine:
                return
            upto = self._asked
            wanted = await asyncio.to_thread(self.read)
            if self.broker is not None:
                await self.broker.admit(wanted)
            self._done = upto

    async def run(self) -> None:
        """Look for changes until cancelled."""
        due = self._clock.monotonic()
        while True:
            try:
                is_due = self._clock.monotonic() >= due
                if await asyncio.to_thread(self._has_changed) or is_due:
                    await self.admit()
                    await self._cut()
                if is_due:
                    due = self._clock.monotonic() + AGAIN_EVERY_S
                    await asyncio.to_thread(self._forget)
            except QuarterdeckError as error:
                _log.warning(
                    "event=admission_held code=%s %s", error.code, error.detail
                )
                self._revision = None
            await asyncio.sleep(LOOK_EVERY_S)

    def _has_changed(self) -> bool:
        with self._store.read() as records:
            seen_in_use = records.certificates.unsettled()
            changed = records.revisions.identity() != self._revision
        if seen_in_use:
            with self._store.write() as records:
                records.certificates.settle(self._clock.now())
        return changed or seen_in_use

    async def _cut(self) -> None:
        uninvited = await asyncio.to_thread(self._uninvited)
        if not uninvited:
            return
        if self.broker is None:
            for it in uninvited:
                _log.warning(
                    "event=session_uninvited device=%s: take its permissions away at"
                    " your broker (quarterdeck broker config) and end its session",
                    it.device,
                )
        else:
            await self.broker.cut([it.client for it in uninvited])
            _log.info("event=sessions_cut count=%d", len(uninvited))
        await asyncio.to_thread(self._note_gone, uninvited)

    def _uninvited(self) -> tuple[Session, ...]:
        with self._store.read() as records:
            return records.certificates.uninvited(self._clock.now())

    def _note_gone(self, uninvited: Iterable[Session]) -> None:
        now = self._clock.now()
        with self._store.write() as records:
            known = records.presence.some([it.device for it in uninvited])
            records.presence.put(
                replace(it, online=False, changed_at=now) for it in known.values()
            )

    def _forget(self) -> None:
        with self._store.write() as records:
            records.certificates.forget(self._clock.now() - KEEP)


def _look(records: Records, revocations: Revocations, now: datetime) -> _Seen:
    over = ended(records.certificates.ended(now), records.claims.ended(now))
    live, claims = records.certificates.live(now), records.claims.live(now)
    return _Seen(
        admission(live, claims, revocations.list(over)),
        records.devices.classes(),
        records.devices.revoked(),
    )
