"""What the update machine needs of the world, each behind a port."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from quarterdeck_agent.evidence import GoldenReport, Tally
from quarterdeck_agent.update.record import Record
from quarterdeck_shared.assignment import Assignment
from quarterdeck_shared.index import Index


class Accepted(Protocol):
    """An assignment that passed checks 6.1 to 6.9, and its artifact's index."""

    @property
    def assignment(self) -> Assignment:
        """What the controller wants."""
        ...

    @property
    def artifact(self) -> str:
        """The artifact's digest."""
        ...

    @property
    def index(self) -> Index:
        """Its signed index."""
        ...


class Trust(Protocol):
    """Turns bytes into something trusted, or raises. Blocking: called in a thread."""

    def accept(self, envelope: bytes) -> Accepted:
        """Check an assignment's envelope.

        Raises:
            RejectedError: With the code of the check that failed.
            TransientError: The controller or the disk did not answer.
        """
        ...


class Fetched(Protocol):
    """What fetching took."""

    @property
    def received_bytes(self) -> int:
        """Bytes of chunks that came over the network."""
        ...

    @property
    def duplicate_bytes(self) -> int:
        """Bytes of chunks that came though they were here already."""
        ...


class Fetcher(Protocol):
    """Fills a folder with an artifact's parts; what is there already is kept."""

    async def fetch(
        self, artifact: str, index: Index, folder: Path, *, reuse: Sequence[Path] = ()
    ) -> Fetched:
        """Return when every part is there. May be cancelled, and repeated.

        Raises:
            TransientError: ``FETCH_STALLED``, ``DISK_FULL`` or ``DISK_FAILED``.
        """
        ...


class Runtime(Protocol):
    """Runs models: proves one beside the active one, and hands over to it."""

    def tally(self) -> Tally:
        """Return what the active model did since it took over."""
        ...

    async def prove(self, artifact: str) -> GoldenReport:
        """Load the slot's model, replay its golden vectors, and keep it warm.

        Raises:
            RejectedError: ``ARTIFACT_INVALID``, ``LOAD_FAILED`` or ``GOLDEN_FAILED``.
            TransientError: The worker ended; the code says how.
        """
        ...

    async def discard(self) -> None:
        """End what ``prove`` kept warm."""
        ...

    async def serve(self, artifact: str | None) -> None:
        """Have that artifact answer requests from now on. Safe to repeat."""
        ...


Persisted = Callable[[Record, str], None]
"""Called with each record after it was made durable, and why it was written."""
