"""A broker of our own, whichever program it is: files written, process run.

Who is admitted is written into its files, which it reads again; a change that it only
takes up at a start has it started anew. An end of a session is made by the controller
itself: it comes with the client id of that session, which ends the older one, and goes.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from quarterdeck_controller.broker.port import CONTROLLER, Admission
from quarterdeck_controller.broker.process import BrokerProcess, Command, write_files
from quarterdeck_controller.broker.revocations import SOON, ends, fault
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.bus.takeover import take_over
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError

CUTS_AT_ONCE = 32
"""Sessions ended beside each other: a handshake each."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Flavour:
    """What differs between the programs.

    Attributes:
        find_program: Returns the program's file, or raises ``BROKER_MISSING``.
        config: Name of the file that the program is started with.
        log: Name of the file that it logs to.
        files: Returns the text of each file, from the folder, the address with the
            broker's certificate, and who may use it.
        reloads: See ``process.Command``; ``refuses`` and ``stuck`` likewise.
        restarts: Whether a change of ``config`` is only taken up at a start.
    """

    find_program: Callable[[], Path]
    config: str
    log: str
    files: Callable[[Path, Endpoint, Admission], Mapping[str, str]]
    reloads: re.Pattern[bytes]
    refuses: re.Pattern[bytes] | None = None
    stuck: bytes | None = None
    restarts: bool = False


class EmbeddedBroker:
    """A broker that lives in ``folder``; see ``port.Broker`` for the contract."""

    def __init__(
        self,
        flavour: Flavour,
        folder: Path,
        host: str,
        port: int,
        *,
        ca: Path,
        certificate: Path,
        key: Path,
        clock: Clock,
    ) -> None:
        """Take the parts.

        Args:
            flavour: Which program it is.
            folder: Where its files are, its own.
            host: Where it listens.
            port: The same.
            ca: What vouches for everybody.
            certificate: The broker's chain. The controller's own, with which sessions
                are ended, is ``controller.pem`` beside it, its key ``controller.key``.
            key: Its key.
            clock: What it is timed by, and what lists of revocations expire by.
        """
        self._flavour = flavour
        self._folder = folder.absolute()
        self._server = Endpoint(
            host, port, ca.absolute(), certificate.absolute(), key.absolute()
        )
        self._clock = clock
        self._process: BrokerProcess | None = None
        self._admission = Admission()
        self._in_force: Admission | None = None
        self._sound = b""
        self._admitting = asyncio.Lock()

    async def start(self) -> None:
        """Start the broker and return once it accepts connections."""
        async with self._admitting:
            await self._start()

    async def stop(self) -> None:
        """End the broker."""
        if self._process is not None:
            await self._process.stop()

    async def restart(self) -> None:
        """Start it anew, so that it reads its certificate again."""
        async with self._admitting:
            if self._process is not None and self._process.running:
                await self._process.restart()

    async def admit(self, admission: Admission) -> None:
        """Let exactly those in ``admission`` use the broker, beside the controller."""
        async with self._admitting:
            self._admission = admission
            process = self._process
            if process is None or self._in_force == admission:
                return
            self._in_force = None  # until it has said that it is
            await self._take_up(process)
            self._in_force = admission

    async def cut(self, clients: Sequence[str]) -> None:
        """End the live sessions of these MQTT client ids."""
        beside = self._server.certificate
        endpoint = self.endpoint(
            beside.with_name(f"{CONTROLLER}.pem"), beside.with_name(f"{CONTROLLER}.key")
        )
        room = asyncio.Semaphore(CUTS_AT_ONCE)

        async def end(client: str) -> None:
            async with room:
                await take_over(endpoint, client)

        wanted = dict.fromkeys(it for it in clients if it)
        outcomes = await asyncio.gather(*map(end, wanted), return_exceptions=True)
        failed = next((it for it in outcomes if it is not None), None)
        if failed is not None:
            raise failed

    def endpoint(self, certificate: Path, key: Path) -> Endpoint:
        """Return how the holder of ``certificate`` reaches this broker."""
        server = self._server
        return Endpoint(server.host, server.port, server.ca, certificate, key)

    async def ended(self) -> QuarterdeckError:
        """Return why, when the broker has ended without being asked to."""
        if self._process is None:
            raise RuntimeError("the broker was not started")
        return await self._process.ended()

    async def _start(self) -> None:
        flavour = self._flavour
        program = str(flavour.find_program())
        arguments = (program, "-c", str(self._folder / flavour.config))
        command = Command(
            self._folder,
            arguments,
            self._folder / flavour.log,
            flavour.reloads,
            flavour.refuses,
            flavour.stuck,
        )
        self._write()
        self._process = BrokerProcess(command, self._server, self._clock)
        await self._process.start()
        self._in_force = self._admission

    async def _take_up(self, process: BrokerProcess) -> None:
        changed = self._write()
        if not process.running:
            return  # it reads them when it is started again
        if self._flavour.restarts and self._flavour.config in changed:
            _log.warning("event=broker_restarts: it takes up a change only so")
            await process.restart()
        elif changed:
            await process.reload()

    def _write(self) -> frozenset[str]:
        flavour, admission = self._flavour, self._without_faults(self._admission)
        try:
            files = flavour.files(self._folder, self._server, admission)
            changed = write_files(self._folder, files)
            self._folder.chmod(0o700)  # one that was there may be open to all
        except OSError as error:
            detail = f"its files in {self._folder} cannot be written: {error}"
            raise RejectedError(Code.BROKER_FAILED, detail) from error
        return changed

    def _without_faults(self, admission: Admission) -> Admission:
        """Return ``admission`` with a list that locks nobody out, or with none.

        The last list that was sound stays in place of none, and of one that is not.
        """
        offered, now = admission.revocations, self._clock.now()
        if not (offered or self._sound):
            return admission
        chain = self._server.certificate.read_bytes()
        self._sound = self._soundest((offered, self._sound), chain, now)
        end = ends(self._sound)
        if end is not None and end < now + SOON:
            _log.warning("event=revocations_end_soon at=%s", end.isoformat())
        return replace(admission, revocations=self._sound)

    def _soundest(self, lists: Iterable[bytes], chain: bytes, now: datetime) -> bytes:
        for it in filter(None, lists):
            why = fault(it, chain, now)
            if why is None:
                return it
            _log.error("event=revocations_left_out: the list of revocations: %s", why)
        return b""
