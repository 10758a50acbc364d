"""The optimizer on real models, beside onnxruntime's own quantization.

A few models for the common table; ``python -m tests.bench.quantization`` runs all of
them, for every class, beside every peer.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.bench.quantization.compare import our_rows, peer_rows
from tests.bench.quantization.row import Row
from tests.bench.quantization.task import prepared
from tests.bench.quantization.tasks.registry import RECIPES
from tests.bench.table import Figure

TASKS, QUICK_TASKS = ("watch-conv", "cls", "blazeface"), ("watch-conv",)
CLASS, PEER = "gateway-x86-vnni", "ort static"


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Optimize for the class that can be measured here, in turns with float."""
    del folder  # what is fetched and trained is kept in the cache
    return [
        figure for name in (QUICK_TASKS if quick else TASKS) for figure in _of(name)
    ]


def _of(name: str) -> Iterator[Figure]:
    task = prepared(RECIPES[name])
    (ours,) = our_rows(task, [CLASS])
    (peer,) = peer_rows(task, [PEER], again=False)
    if ours.failure:
        raise RuntimeError(f"{name}: {ours.failure}")
    told = f"{ours.recipe}, {ours.decision}; float {100 * _float(ours):.1f} %"
    yield _figure(f"{name}: accuracy", ours, peer, 100 * ours.score, "%", note=told)
    yield _figure(f"{name}: size", ours, peer, ours.size_ratio, "of float")
    yield _figure(f"{name}: latency", ours, peer, ours.latency_ratio, "of float")
    yield _figure(f"{name}: to make it", ours, peer, ours.seconds, "s")


def _figure(
    what: str, ours: Row, peer: Row, value: float, unit: str, *, note: str = ""
) -> Figure:
    others = {
        "%": 100 * peer.score,
        "s": peer.seconds,
        "of float": peer.size_ratio if "size" in what else peer.latency_ratio,
    }
    other = None if peer.failure else others[unit]
    return Figure(what, ours.samples, value, unit, PEER, other, peer.failure or note)


def _float(ours: Row) -> float:
    return ours.score + ours.drop / 100
