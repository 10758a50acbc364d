"""Samples on their way in: what every kind of source yields, and is refused with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

CHUNK_BYTES = 4 << 20
"""About how much of a source is held in memory at once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples, as many as come at once; every array has them first."""

    inputs: Mapping[str, Array]
    labels: Array | None = None
    groups: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, slots=True)
class Source:
    """Where samples come from.

    Attributes:
        origin: What to call it in an error.
        count: How many samples there are; None when only reading it tells.
        size: How many bytes they will take; None when only reading it tells.
        batches: Yields the samples at the rows it is given, which ascend; None is all.
            It refuses with ``DATA_INVALID`` what cannot be read.
        notes: What was noticed, as sentences.
    """

    origin: str
    count: int | None
    size: int | None
    batches: Callable[[Array | None], Iterator[Batch]]
    notes: tuple[str, ...] = ()


def invalid(detail: str) -> RejectedError:
    """Return the refusal of data that is not as it must be."""
    return RejectedError(Code.DATA_INVALID, detail)
