"""Run a variant once on its golden vectors, in a child with limits."""

import tempfile
from pathlib import Path
from typing import Protocol

from quarterdeck_controller.optimize.profile import Gate
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.steps import Replayed, ReplayRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index

BASE_MB = 2048
"""Address space of the child before it has opened a model: libraries, threads."""
ROOM = 6
"""More of it, in sizes of the model."""


class Trial(Protocol):
    """Tries a model and tells what came of it."""

    def __call__(
        self, model: bytes, golden: bytes, index: Index, gate: Gate
    ) -> Replayed:
        """Return how closely ``model`` reproduces ``golden``.

        Raises:
            RejectedError: It failed, hung, crashed or outgrew its limits.
        """
        ...


def run_once(model: bytes, golden: bytes, index: Index, gate: Gate) -> Replayed:
    """Return how closely ``model`` reproduces ``golden`` on this machine.

    Raises:
        RejectedError: ``MODEL_INVALID`` when it failed, hung, crashed or outgrew its
            limits; ``DISK_FULL`` or ``DISK_FAILED`` when it could not be tried.
    """
    room = index.limits.memory_mb + (ROOM * len(model) >> 20)
    bounds = Bounds(seconds=gate.seconds, memory_mb=BASE_MB + room)
    try:
        with tempfile.TemporaryDirectory(prefix="quarterdeck-gate-") as name:
            return _run(Path(name), bounds, model, golden, index)
    except OSError as error:
        raise RejectedError(
            disk_code(error),
            f"the model could not be tried in {tempfile.gettempdir()}: "
            f"{error.strerror}",
        ) from error


def _run(
    folder: Path, bounds: Bounds, model: bytes, golden: bytes, index: Index
) -> Replayed:
    files = {"model.onnx": model, "golden.npz": golden}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    request = ReplayRequest(
        model=folder / "model.onnx",
        golden=folder / "golden.npz",
        session=index.session,
        thresholds=index.golden,
        seconds=int(bounds.seconds) + 1,
    )
    sandbox = Sandbox(folder / "steps", bounds)
    try:
        return sandbox.run("replay", request, Replayed)
    finally:
        sandbox.close()


def trusting(model: bytes, golden: bytes, index: Index, gate: Gate) -> Replayed:
    """Return that all is well without trying anything.

    For tests of what comes after the gate, and to show it.
    """
    del model, golden, gate
    return Replayed(
        count=index.golden.count,
        finite=True,
        agreement=1.0,
        error=0.0,
        reproduces=True,
        grown_mb=0.0,
    )


def check_replayed(replayed: Replayed, index: Index, *, of_class: bool) -> str:
    """Return what came of the run in a sentence, or refuse the variant.

    Kernels of other instruction sets may give other answers: what a machine that is
    not of the class says of the tolerance is told, and decides nothing.

    Raises:
        RejectedError: ``GATE_FAILED`` when the scores are not finite, the memory grew
            past the class's limit, or the vectors are not reproduced.
    """
    if not replayed.finite or replayed.error is None:
        raise _failed("it gives scores that are not finite numbers")
    limit = index.limits.memory_mb
    if replayed.grown_mb > limit:
        raise _failed(
            f"it takes {replayed.grown_mb:.0f} MiB, the class allows {limit} MiB"
        )
    told = (
        f"{replayed.count} golden vectors: error {replayed.error:.4f} (at most "
        f"{index.golden.max_error:.4f}), agreement {replayed.agreement:.3f} (at least "
        f"{index.golden.min_agreement:.3f})"
    )
    if replayed.reproduces:
        return f"reproduces {told}"
    if of_class:
        raise _failed(f"it does not reproduce its {told}")
    return f"differs on this machine, which is not of the class, on {told}"


def _failed(why: str) -> RejectedError:
    return RejectedError(Code.GATE_FAILED, f"model.onnx: {why}")
