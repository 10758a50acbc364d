"""The agent as a whole: puts the parts together, and stops them in order."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal

from quarterdeck_agent import __version__
from quarterdeck_agent.device import fingerprint
from quarterdeck_agent.identity.files import IdentityFiles
from quarterdeck_agent.identity.keeper import Keeper
from quarterdeck_agent.link import Link
from quarterdeck_agent.lock import exclusive
from quarterdeck_agent.outbox import Outbox
from quarterdeck_agent.refusals import Refusals, Standing
from quarterdeck_agent.runtime.server import Server
from quarterdeck_agent.runtime.sources import DirectorySource, pump
from quarterdeck_agent.settings import Settings, check_trust, endpoint
from quarterdeck_agent.status import Status, Trouble, refusal_told, write_status
from quarterdeck_agent.telemetry.collect import Collector
from quarterdeck_agent.telemetry.send import Sender
from quarterdeck_agent.update.decide import turned_down
from quarterdeck_agent.update.fetch import Fetcher
from quarterdeck_agent.update.lazy import TRUST, LazyTrust
from quarterdeck_agent.update.machine import Machine
from quarterdeck_agent.update.record import Reason, Record
from quarterdeck_agent.update.slots import Slots
from quarterdeck_agent.update.unseal import Opener
from quarterdeck_agent.update.vigil import Vigil
from quarterdeck_shared.attack import Attack
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Bus, Endpoint
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.reported import LastUpdate, Reported

BEGIN_ANEW = 75
"""Exit code of an agent whose new key needs a process that was begun for it."""
STOP_S = 4.5
_LOOK_S, _STATUS_S = 0.25, 2.0

log = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Run the agent until SIGTERM or SIGINT; return the exit code.

    Raises:
        RejectedError: The settings or the state folder cannot be used.
        TransientError: The state folder cannot be used now.
    """
    clock = SystemClock()
    check_trust(settings)
    with exclusive(settings.state):
        agent = Agent(settings, clock)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stopping.set)
        return await agent.run(stopping)


class Agent:
    """All parts of one agent, wired. Nothing else wires them."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._boot = secrets.randbits(52)
        self._events = 0
        chance = secrets.SystemRandom()
        device, state = settings.device, settings.state
        self._capabilities = fingerprint(settings.simulate_isa)
        client = secrets.token_hex(16)
        outside = IdentityFiles(settings).outside
        identity = settings.identity_file
        own = endpoint(settings, identity, outside or identity)
        self._bus = MqttBus(own, client, clock=clock, rng=chance)
        self._keeper = Keeper(settings, self._bus, clock, chance, connect=self._connect)
        self._outbox = Outbox(state / "outbox")
        self._sender = Sender(self._bus, device, self._outbox, clock)
        self._collector = Collector(self._boot, clock, self._outbox.keep)
        slots = Slots(state, clock, Opener(device, state / "seal.key"))
        self._server = Server(slots, self._collector, clock)
        self._trust = LazyTrust(
            settings,
            self._bus,
            clock,
            running=lambda: self._machine.record.active,
            notice=self._note,
        )
        self._refusals = Refusals(
            self._bus,
            device,
            self._boot,
            clock=clock,
            key=lambda: self._keeper.key,
            standing=self._standing,
        )
        self._vigil = Vigil(
            self._trust,
            state / TRUST / "metadata" / "timestamp.json",
            clock=clock,
            spread_s=settings.refresh.spread_s,
            draw=chance.random,
            connected=lambda: self._bus.connected,
            controller=lambda: self._link.controller_online,
            refused=self._note,
            stale=lambda attack, why: self._note(Code.METADATA_STALE, why, attack),
        )
        self._link = Link(
            self._bus,
            device,
            self._boot,
            client=client,
            generation=lambda: self._keeper.generation,
            report=self.report,
            on_assignment=self._hear_assignment,
            on_news=self._hear_news,
            on_timestamp=self._vigil.hear,
        )
        self._machine = Machine(
            slots=slots,
            trust=self._trust,
            fetcher=Fetcher(
                self._bus,
                device,
                settings.device_class,
                clock,
                lambda: self._link.controller_boot,
                on_invalid=lambda error: self._note(error.code, error.detail),
            ),
            runtime=self._server,
            clock=clock,
            draw=chance.random,
            capabilities=self._capabilities,
            persisted=self._persisted,
            refused=self._refused,
        )
        self._trust.on_late = self._vigil.suspect
        self._server.on_crash_loop = self._machine.crash_looped
        self._source = _source(settings)

    async def run(self, stopping: asyncio.Event) -> int:
        """Run until ``stopping``; return the exit code.

        It is 0, 1 when a part ended by itself, or ``BEGIN_ANEW``.
        """
        self._restore()
        await self._keeper.load()
        await self._link.start()
        parts = self._start_parts()
        stop = asyncio.create_task(stopping.wait(), name="stop")
        try:
            await asyncio.wait({stop, *parts}, return_when="FIRST_COMPLETED")
        finally:
            anew = self._keeper.must_begin_anew
            broken = [part for part in parts if part.done() and not anew]
            for part in broken:
                error = None if part.cancelled() else part.exception()
                log.critical("%s ended", part.get_name(), exc_info=error)
            stop.cancel()
            await self._stop(parts)
        if anew:
            return BEGIN_ANEW
        return 1 if broken else 0

    def report(self) -> Reported:
        """Return the device's whole state, as the controller gets it."""
        record = self._machine.record
        return Reported(
            device=self._settings.device,
            device_class=self._settings.device_class,
            agent=__version__,
            boot=self._boot,
            at=self._clock.now(),
            state=record.state.value,
            step=record.step,
            sequence=record.sequence,
            active=record.active,
            previous=record.previous,
            staged=record.staged,
            update=_outcome(record, self._machine.waiting),
            quarantine=record.quarantine,
            capabilities=self._capabilities,
        )

    def _connect(self, endpoint: Endpoint) -> Bus:
        """Return a session beside the device's own."""
        client, chance = secrets.token_hex(16), secrets.SystemRandom()
        return MqttBus(endpoint, client, clock=self._clock, rng=chance)

    def _restore(self) -> None:
        trouble = self._machine.restore()
        if trouble is not None:
            code = Code.STATE_DAMAGED
            log.error("%s: %s (%s)", code, trouble, code.remedy)
        self._outbox.restore()
        active = self._machine.record.active
        log.info(
            "agent %s of class %s started, boot %d, runs %s",
            self._settings.device,
            self._settings.device_class,
            self._boot,
            active.release if active else "no model yet",
        )

    def _start_parts(self) -> list["asyncio.Task[None]"]:
        parts = {
            "identity": self._keeper.run(),
            "server": self._server.run(),
            "machine": self._machine.run(),
            "link": self._link.run(),
            "sender": self._sender.run(),
            "refusals": self._refusals.run(),
            "vigil": self._vigil.run(),
            "windows": self._close_windows(),
            "status": self._keep_status(),
        }
        if self._source is not None:
            parts["source"] = pump(self._source, self._server)
        return [asyncio.create_task(part, name=name) for name, part in parts.items()]

    async def _stop(self, parts: list["asyncio.Task[None]"]) -> None:
        log.info("stopping")
        self._trust.close()
        for part in parts:
            part.cancel()
        try:
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(self._link.stop(), *parts, return_exceptions=True)
                await self._bus.close()
        except TimeoutError:
            log.warning("not everything stopped within %.1f s", STOP_S)
        self._collector.close()
        with contextlib.suppress(OSError):
            write_status(self._settings.state, self._status())
        log.info("stopped")

    # -- what the parts tell each other -----------------------------------------

    def _hear_assignment(self, envelope: bytes) -> None:
        self._machine.offer(envelope)

    def _hear_news(self) -> None:
        self._machine.wake()
        self._sender.resend()

    def _persisted(self, record: Record, why: str) -> None:
        told = record.event.value if record.event is not None else ""
        log.info("step %d: %s -> %s: %s", record.step, told, record.state, why)
        update, given_up = record.update, turned_down(record, why)
        if given_up is not None:
            self._refusals.note(given_up.code, given_up.detail)
        self._tell(told, record, update.code if update else None, why)
        self._save_status()

    def _refused(self, reason: Reason, envelope: str) -> None:
        self._refusals.note(reason.code, reason.detail, refused=envelope)
        self._tell("refused", self._machine.record, reason.code, reason.detail)
        self._save_status()

    def _note(self, code: Code, detail: str, attack: Attack | None = None) -> None:
        self._refusals.note(code, detail, attack=attack)
        self._save_status()

    def _standing(self) -> Standing:
        record = self._machine.record
        active = record.active.digest if record.active else None
        return Standing(record.sequence, active)

    def _tell(self, name: str, record: Record, code: Code | None, why: str) -> None:
        self._events += 1
        named = record.work or record.update
        event = StepEvent(
            boot=self._boot,
            number=self._events,
            at=self._clock.now(),
            event=name,
            state=record.state.value,
            sequence=record.sequence,
            digest=named.digest if named is not None else None,
            code=code,
            detail=why[:300],
        )
        self._link.tell(event)

    # -- what happens by the clock ------------------------------------------------

    async def _close_windows(self) -> None:
        while True:
            await asyncio.sleep(self._settings.telemetry.period_s)
            self._collector.close()
            self._sender.wake()

    async def _keep_status(self) -> None:
        """Write the status when it has changed, and every now and then."""
        before: tuple[object, ...] = ()
        written = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            seen = (
                self._bus.connected,
                self._server.serving,
                self._keeper.standing,
                self._machine.waiting,
            )
            if seen != before or now - written >= _STATUS_S:
                self._save_status()
                written = now
            if seen[3:] != before[3:]:
                self._link.tell()
            before = seen
            await asyncio.sleep(_LOOK_S)

    def _save_status(self) -> None:
        try:
            write_status(self._settings.state, self._status())
        except OSError as error:
            log.debug("status: %s", error)

    def _status(self) -> Status:
        trouble = self._bus.trouble
        return Status(
            at=self._clock.now(),
            pid=os.getpid(),
            device=self._settings.device,
            device_class=self._settings.device_class,
            connected=self._bus.connected,
            controller_online=self._link.controller_online,
            serving=self._server.serving,
            worker_pids=self._server.pids,
            identity=self._keeper.standing,
            broker=_trouble(trouble),
            waiting=_trouble(self._machine.waiting),
            metadata=_trouble(self._vigil.trouble),
            refused=refusal_told(self._refusals.newest),
            refusals=self._refusals.count,
            totals=self._collector.totals,
            windows_waiting=len(self._outbox),
            windows_lost=self._outbox.dropped,
            reported=self.report(),
        )


def _source(settings: Settings) -> DirectorySource | None:
    if settings.source is None:
        return None
    source = settings.source
    try:
        return DirectorySource(
            source.path, interval_s=source.interval_s, repeat=source.repeat
        )
    except RejectedError as error:
        raise RejectedError(Code.SETTINGS_INVALID, error.detail) from error


def _outcome(record: Record, waiting: Reason | None) -> LastUpdate | None:
    """Return how the update stands; what waits for the disk is deferred, too."""
    update = record.update
    if update is None or waiting is None or update.outcome != "pending":
        return update
    return update.model_copy(
        update={
            "outcome": "deferred",
            "code": waiting.code,
            "detail": waiting.detail[:300],
        }
    )


def _trouble(reason: Reason | QuarterdeckError | None) -> Trouble | None:
    return None if reason is None else Trouble(code=reason.code, detail=reason.detail)
