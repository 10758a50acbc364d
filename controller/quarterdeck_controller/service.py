"""The controller's process: the only place that wires its parts together."""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TextIO

from quarterdeck_controller.announce import Announcer
from quarterdeck_controller.broker.mosquitto import MosquittoBroker
from quarterdeck_controller.broker.nats import NatsBroker
from quarterdeck_controller.broker.port import Broker
from quarterdeck_controller.fleet.assignments import Assignments
from quarterdeck_controller.fleet.listener import Listener
from quarterdeck_controller.fleet.refusals import RefusalListener
from quarterdeck_controller.fleet.sealing import ContentKeys
from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.identity.admission import (
    Allowed,
    Doorkeeper,
    GuardedBus,
    Revocations,
)
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.enrolment import EnrolmentServer
from quarterdeck_controller.identity.renewal import RenewalServer
from quarterdeck_controller.identity.services import ServiceKeeper
from quarterdeck_controller.monitor.ingest import Ingest
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.repository.guard import check_offline_keys
from quarterdeck_controller.repository.repository import Renewal, Repository
from quarterdeck_controller.repository.seal import Seals
from quarterdeck_controller.repository.server import MetadataServer
from quarterdeck_controller.repository.timekeeper import Timekeeper
from quarterdeck_controller.rollout.reconcile import Reconciler
from quarterdeck_controller.store.ledger import Entry
from quarterdeck_controller.store.store import Store
from quarterdeck_controller.transfer.needs import NeedListener
from quarterdeck_controller.transfer.publisher import Publisher
from quarterdeck_shared import topics
from quarterdeck_shared.bus.backoff import Rng
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.bus.port import Bus, Endpoint
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError

CONNECT_TIMEOUT_S, PATIENCE_S = 15.0, 3.0
RESTART_WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Between attempts to start our broker again; after the last one we give up."""

log = logging.getLogger(__name__)


class Ready(Protocol):
    """Is told where the broker is, and whether it has let us in."""

    def __call__(self, where: str, *, connected: bool) -> None:
        """Take note of it."""


async def serve(home: Home, clock: Clock, rng: Rng, *, boot: int, ready: Ready) -> None:
    """Run the controller until cancelled; ``ready`` is told when it begins.

    ``boot`` is drawn anew for each start: it names this session to the devices.

    Raises:
        QuarterdeckError: The home is in use, the broker does not start, or does not
            let us in; later, that our broker ended and cannot be started again.
    """
    settings = home.settings()
    check_offline_keys(home, settings, clock)
    with _only_one(home), Store.open(home.database) as store:
        broker = _own_broker(home, settings, clock)
        await ServiceKeeper(home, store, broker, clock).renew()
        authority = Authority.open(home.authority, clock)
        revocations = Revocations(authority, home.authority, clock)
        door = Doorkeeper(store, broker, revocations, clock, allowed=Allowed())
        await door.admit()  # whom the broker lets in from its first moment
        async with _running(broker):
            endpoint = _endpoint(home, settings)
            bus = MqttBus(endpoint, secrets.token_hex(16), clock=clock, rng=rng)
            parts = _assemble(home, store, bus, door, clock=clock, boot=boot)
            await bus.start()
            try:
                await _wait_connected(bus, ours=broker is not None)
                ready(f"{endpoint.host}:{endpoint.port}", connected=bus.connected)
                await parts.run()
            finally:
                await parts.announcer.leave()
                await bus.close()


async def _wait_connected(bus: Bus, *, ours: bool) -> None:
    try:
        await bus.wait_connected(CONNECT_TIMEOUT_S if ours else PATIENCE_S)
    except QuarterdeckError:
        if ours:
            raise
        # somebody else's broker may be started later than we are


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that runs beside each other on one session."""

    announcer: Announcer
    listener: Listener
    refusals: RefusalListener
    ingest: Ingest
    assignments: Assignments
    reconciler: Reconciler
    metadata: MetadataServer
    needs: NeedListener
    publisher: Publisher
    door: Doorkeeper
    enrolment: EnrolmentServer
    renewal: RenewalServer
    services: ServiceKeeper

    async def run(self) -> None:
        """Run all parts until cancelled; one that fails ends them all."""
        await self.needs.subscribe()
        loops = {
            "announcer": self.announcer.run(),
            "listener": self.listener.run(),
            "refusals": self.refusals.run(),
            "ingest": self.ingest.run(),
            "assignments": self.assignments.run(),
            "reconciler": self.reconciler.run(),
            "metadata": self.metadata.run(),
            "publisher": self.publisher.run(),
            "door": self.door.run(),
            "enrolment": self.enrolment.run(),
            "renewal": self.renewal.run(),
            "services": self.services.run(),
        }
        async with asyncio.TaskGroup() as group:
            for name, loop in loops.items():
                group.create_task(loop, name=name)
            if self.door.broker is not None:
                group.create_task(_keep(self.door.broker), name="broker")


def _assemble(
    home: Home, store: Store, bus: Bus, door: Doorkeeper, *, clock: Clock, boot: int
) -> Parts:
    settings = home.settings()
    heard = GuardedBus(bus, door.allowed)
    repository, catalog = Repository(home, clock), Catalog(home)
    authority = Authority.open(home.authority, clock)
    lifetime = timedelta(days=settings.assignment_days)
    director = Director(home)
    assignments = Assignments(
        store,
        bus,
        director.sign,
        clock,
        lifetime=lifetime,
        signed_by=director.keyids,
        content_key=ContentKeys(catalog, Seals(home.seals)).wrap,
    )
    reconciler = Reconciler(store, catalog, assignments, clock)
    publisher = Publisher(
        bus,
        catalog.read_chunk,
        _chunk_topic(catalog),
        stream=boot,
        clock=clock,
        bytes_per_s=settings.transfer_bytes_s,
        may_read=lambda device, artifact: (
            door.classes.get(device) == catalog.device_class(artifact)
        ),
    )
    return Parts(
        announcer=Announcer(
            bus, repository, clock, boot=boot, record=_recorder(store, clock)
        ),
        listener=Listener(heard, store, clock, on_change=reconciler.wake),
        refusals=RefusalListener(heard, store, clock),
        ingest=Ingest(heard, store, clock),
        assignments=assignments,
        reconciler=reconciler,
        metadata=MetadataServer(heard, Timekeeper(repository, clock).read),
        needs=NeedListener(heard, publisher),
        publisher=publisher,
        door=door,
        enrolment=EnrolmentServer(
            bus,
            store,
            authority,
            clock,
            days=settings.certificate_days,
            admit=door.admit,
        ),
        renewal=RenewalServer(
            heard,
            store,
            authority,
            clock,
            days=settings.certificate_days,
            admit=door.admit,
        ),
        services=ServiceKeeper(home, store, door.broker, clock),
    )


def _recorder(store: Store, clock: Clock) -> Callable[[Renewal], None]:
    def record(renewal: Renewal) -> None:
        detail = {"roles": renewal.renewed, "requests": renewal.requests}
        with store.write() as records:
            records.audit.append(Entry(clock.now(), "metadata.renew", detail=detail))

    return record


def _chunk_topic(catalog: Catalog) -> Callable[[str], str | None]:
    def topic(artifact: str) -> str | None:
        device_class = catalog.device_class(artifact)
        return topics.chunks(device_class, artifact) if device_class else None

    return topic


def _own_broker(home: Home, settings: Settings, clock: Clock) -> Broker | None:
    """Return the fleet's broker; None where it is somebody else's."""
    makers = {"nats": NatsBroker, "mosquitto": MosquittoBroker}
    maker = makers.get(settings.broker.kind)
    if maker is None:
        return None
    return maker(
        home.broker,
        settings.broker.host,
        settings.broker.port,
        ca=home.authority / "root.pem",
        certificate=home.authority / "broker.pem",
        key=home.authority / "broker.key",
        clock=clock,
    )


@asynccontextmanager
async def _running(broker: Broker | None) -> AsyncIterator[None]:
    if broker is None:
        yield
        return
    try:
        await broker.start()
        yield
    finally:
        await broker.stop()


async def _keep(broker: Broker) -> None:
    """Start the broker again whenever it ends; its sessions come back by themselves."""
    while True:
        error = await broker.ended()
        log.warning("event=broker_ended code=%s: %s", error.code, error.detail)
        await _start_again(broker)
        log.info("event=broker_restarted: the broker accepts sessions again")


async def _start_again(broker: Broker) -> None:
    for wait_s in RESTART_WAITS_S:
        try:
            await broker.start()
        except QuarterdeckError as error:
            log.warning("event=broker_held code=%s: %s", error.code, error.detail)
            await asyncio.sleep(wait_s)
        else:
            return
    await broker.start()


def _endpoint(home: Home, settings: Settings) -> Endpoint:
    broker = settings.broker
    return Endpoint(
        broker.host,
        broker.port,
        ca=home.authority / "root.pem",
        certificate=home.authority / "controller.pem",
        key=home.authority / "controller.key",
        username=broker.username,
        password=_password(home, settings),
    )


def _password(home: Home, settings: Settings) -> str | None:
    named = settings.broker.password_file
    if named is None:
        return None
    file = home.path / named
    try:
        return file.read_text("utf-8").strip()
    except OSError as error:
        raise RejectedError(
            Code.HOME_INVALID, f"the broker's password in {file}: {error.strerror}"
        ) from error


@contextmanager
def _only_one(home: Home) -> Iterator[None]:
    """Hold the home, so that two controllers never decide for one fleet."""
    with _lock_file(home) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise RejectedError(
                Code.CONFLICT,
                f"{home.path} is served by process {lock.read(16).strip()} already",
            ) from error
        # On a full disk nobody can be told who holds it, which is no reason to stop.
        with contextlib.suppress(OSError):
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        yield


def _lock_file(home: Home) -> TextIO:
    try:
        return (home.path / "serve.lock").open("a+")
    except OSError as error:
        raise RejectedError(
            disk_code(error),
            f"{home.path} cannot be written: {error.strerror}",
        ) from error


def unwrap(group: BaseExceptionGroup[BaseException]) -> QuarterdeckError | None:
    """Return the reason in ``group`` that a person can act on, if that is all."""
    matching, others = group.split(QuarterdeckError)
    if matching is None or others is not None:
        return None
    error: BaseException = matching
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, QuarterdeckError) else None
