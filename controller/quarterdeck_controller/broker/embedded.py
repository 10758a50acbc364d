"""A broker of our own, whichever program it is: files written, process run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_controller.broker.port import Admission
from quarterdeck_controller.broker.process import BrokerProcess, Command, write_files
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError


@dataclass(frozen=True, slots=True)
class Flavour:
    """What differs between the programs.

    Attributes:
        find_program: Returns the program's file, or raises ``BROKER_MISSING``.
        config: Name of the file that the program is started with.
        log: Name of the file that it logs to.
        files: Returns the text of each file, from the folder, the address with the
            broker's certificate, and who may use it.
        stuck: See ``process.Command``.
    """

    find_program: Callable[[], Path]
    config: str
    log: str
    files: Callable[[Path, Endpoint, Admission], Mapping[str, str]]
    stuck: bytes | None = None


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
        self._flavour = flavour
        self._folder = folder.absolute()
        self._server = Endpoint(
            host, port, ca.absolute(), certificate.absolute(), key.absolute()
        )
        self._clock = clock
        self._process: BrokerProcess | None = None
        self._admission = Admission()

    async def start(self) -> None:
        """Start the broker and return once it accepts connections."""
        flavour = self._flavour
        program = str(flavour.find_program())
        arguments = (program, "-c", str(self._folder / flavour.config))
        log = self._folder / flavour.log
        command = Command(self._folder, arguments, log, flavour.stuck)
        self._write()
        self._process = BrokerProcess(command, self._server, self._clock)
        await self._process.start()

    async def stop(self) -> None:
        """End the broker."""
        if self._process is not None:
            await self._process.stop()

    async def admit(self, admission: Admission) -> None:
        """Let exactly those in ``admission`` use the broker, beside the controller."""
        if self._admission == admission:
            return
        self._admission = admission
        if self._process is not None and self._write():
            self._process.reload()

    async def cut(self, clients: Sequence[str]) -> None:
        """End the live sessions of these MQTT client ids."""
        raise NotImplementedError

    def endpoint(self, certificate: Path, key: Path) -> Endpoint:
        """Return how the holder of ``certificate`` reaches this broker."""
        server = self._server
        return Endpoint(server.host, server.port, server.ca, certificate, key)

    async def ended(self) -> QuarterdeckError:
        """Return why, when the broker has ended without being asked to."""
        if self._process is None:
            raise RuntimeError("the broker was not started")
        return await self._process.ended()

    def _write(self) -> bool:
        files = self._flavour.files(self._folder, self._server, self._admission)
        try:
            return write_files(self._folder, files)
        except OSError as error:
            detail = f"its files in {self._folder} cannot be written: {error}"
            raise RejectedError(Code.BROKER_FAILED, detail) from error
