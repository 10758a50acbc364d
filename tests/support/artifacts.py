"""Artifacts of random bytes, for tests that move them and do not run them."""

import random
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_shared.device import Requirements
from quarterdeck_shared.index import Golden, Index, Limits, PartName, cut, digest

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Artifact:
    """An index with the bytes that it describes."""

    digest: str
    index: Index
    parts: dict[PartName, bytes]

    def chunk(self, number: int) -> bytes | None:
        """Return the bytes of one chunk."""
        chunks = self.index.chunk_list()
        if number >= len(chunks):
            return None
        at = chunks[number]
        return self.parts[at.part][at.offset : at.offset + at.length]

    def is_whole_in(self, folder: Path) -> bool:
        """Return whether every part in ``folder`` has exactly our bytes."""
        return all(
            (folder / name).read_bytes() == data for name, data in self.parts.items()
        )


def make_artifact(
    model_bytes: int,
    *,
    seed: int = 1,
    device_class: str = "gateway",
    chunk_bytes: int = CHUNK_BYTES,
    model: bytes | None = None,
) -> Artifact:
    """Return an artifact of about ``model_bytes``, or around the bytes of ``model``."""
    rng = random.Random(seed)
    parts: dict[PartName, bytes] = {
        "model.onnx": model if model is not None else rng.randbytes(model_bytes),
        "golden.npz": random.Random(-1).randbytes(chunk_bytes + 100),
    }
    index = Index(
        model="noise",
        version=seed,
        release=seed,
        device_class=device_class,
        recipe="none",
        chunk_bytes=chunk_bytes,
        parts=tuple(cut(name, data, chunk_bytes) for name, data in parts.items()),
        requires=Requirements(
            isa=(), memory_mb=1, runtime="1.20", provider="CPUExecutionProvider"
        ),
        limits=Limits(latency_ms=10, memory_mb=100),
        golden=Golden(count=1, min_agreement=1, margin=0, max_error=1),
    )
    return Artifact(digest(index.encode()), index, parts)
