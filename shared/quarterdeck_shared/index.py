"""The signed index of an artifact: its parts, their chunks, what it needs.

The index is a TUF target (PROTOCOL.md section 5). Its own sha256 is the artifact's
digest: every name of an artifact on the wire is that digest.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from quarterdeck_shared.device import Requirements
from quarterdeck_shared.ids import ClassName, ModelName, Sha256
from quarterdeck_shared.session import Session
from quarterdeck_shared.wire import Wire

MAX_INDEX_BYTES = 1 << 20
MAX_ARTIFACT_BYTES = 2 << 30
DEFAULT_CHUNK_BYTES = 64 * 1024

PartName = Literal["model.onnx", "golden.npz", "evaluation.json", "provenance.json"]
"""The files of an artifact; a device chooses no other names."""


class Plain(Wire):
    """What a sealed part is when it was opened."""

    length: int = Field(ge=1, le=MAX_ARTIFACT_BYTES)
    sha256: Sha256


class Part(Wire):
    """One file of an artifact, cut into chunks of the index's chunk size.

    Attributes:
        plain: For a part that is encrypted: what comes out of it. ``length``,
            ``sha256`` and ``chunks`` are those of the encrypted bytes, so that
            anybody can check them on the way.
    """

    name: PartName
    length: int = Field(ge=1, le=MAX_ARTIFACT_BYTES)
    sha256: Sha256
    chunks: tuple[Sha256, ...] = Field(min_length=1, max_length=1 << 16)
    plain: Plain | None = None


class Limits(Wire):
    """What the model may cost on a device of its class.

    Attributes:
        latency_ms: The 90th percentile of one inference, milliseconds.
        memory_mb: Resident memory of the process that runs the model, MiB.
    """

    latency_ms: float = Field(gt=0, le=600_000)
    memory_mb: int = Field(ge=1, le=1 << 24)


class Golden(Wire):
    """How closely golden vectors must be reproduced.

    Attributes:
        count: Number of vectors in ``golden.npz``.
        min_agreement: Share of the vectors with a clear margin whose top class must
            be the float model's.
        margin: A vector's margin is clear when the float model's best score leads
            by at least this much.
        max_error: Largest root-mean-square difference to the expected scores that
            is accepted over all vectors, as a share of the expected scores' own
            root-mean-square.
    """

    count: int = Field(ge=1, le=4096)
    min_agreement: float = Field(ge=0, le=1)
    margin: float = Field(ge=0)
    max_error: float = Field(gt=0)


class Index(Wire):
    """What TUF signs for one variant of one release.

    Attributes:
        labels: Names of the classes in the order of the model's scores; may be empty.
        session: How the runtime is told to open this model.
        release: Counter of the fleet's releases; rises with every release.
    """

    v: Literal[3] = 3
    model: ModelName
    version: int = Field(ge=1, le=999_999_999)
    release: int = Field(ge=1, le=1 << 40)
    device_class: ClassName
    recipe: str = Field(max_length=64)
    chunk_bytes: int = Field(ge=1024, le=1 << 20)
    parts: tuple[Part, ...] = Field(min_length=1, max_length=8)
    requires: Requirements
    limits: Limits
    golden: Golden
    labels: tuple[str, ...] = Field(default=(), max_length=4096)
    session: Session = Session()

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError("a part is listed twice")
        if not {"model.onnx", "golden.npz"} <= set(names):
            raise ValueError("model.onnx and golden.npz must be listed")
        for part in self.parts:
            if len(part.chunks) != -(-part.length // self.chunk_bytes):
                raise ValueError(f"{part.name}: chunk count and length disagree")
        if sum(part.length for part in self.parts) > MAX_ARTIFACT_BYTES:
            raise ValueError("the parts exceed the largest artifact")
        return self

    @property
    def length(self) -> int:
        """Total bytes of all parts."""
        return sum(part.length for part in self.parts)

    @property
    def chunk_count(self) -> int:
        """Number of chunks of all parts."""
        return sum(len(part.chunks) for part in self.parts)

    def part(self, name: PartName) -> Part:
        """Return the part of that name."""
        return next(part for part in self.parts if part.name == name)

    def chunk_list(self) -> tuple["Chunk", ...]:
        """Return every chunk in order: its number is its place in this tuple."""
        return tuple(self._chunks())

    def _chunks(self) -> Iterator["Chunk"]:
        for part in self.parts:
            for number, digest in enumerate(part.chunks):
                offset = number * self.chunk_bytes
                length = min(self.chunk_bytes, part.length - offset)
                yield Chunk(part.name, offset, length, digest)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where one chunk's bytes belong and what their sha256 is."""

    part: PartName
    offset: int
    length: int
    sha256: str


def digest(data: bytes) -> str:
    """Return the sha256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def cut(name: PartName, data: bytes, chunk_bytes: int) -> Part:
    """Return the part that describes ``data`` cut into chunks."""
    pieces = range(0, len(data), chunk_bytes)
    return Part(
        name=name,
        length=len(data),
        sha256=digest(data),
        chunks=tuple(digest(data[at : at + chunk_bytes]) for at in pieces),
    )


def target_path(device_class: str, model: str, version: int) -> str:
    """Return the TUF target path of an index."""
    return f"classes/{device_class}/{model}-{version}.idx"
