"""Run a model on another processor: the program inside the emulator.

It stands alone: Python's library, numpy and onnxruntime are all that is there, and what
it refuses ends it with an exception. The folder it is given holds ``request.json`` and,
for one run each, the inputs in ``0-in.npz``, ``1-in.npz`` and so on, the arrays in the
order of the names in the request. Beside them it writes ``0-out.npz`` and so on, and
``answer.json`` at the end. ``processor.json`` is there as soon as the runtime has
loaded, so that a crash before can be told from a crash after.
"""

import ctypes
import importlib
import json
import os
import platform
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``: the signal that is sent when the parent dies."""


def main(folder: Path, seconds: int, parent: int) -> None:
    """Do what ``folder`` asks, in at most so many seconds, while ``parent`` lives."""
    signal.alarm(seconds)  # ends this process even when nobody watches it any more
    _end_with(parent)
    _write(folder / "processor.json", processor())
    request = json.loads((folder / "request.json").read_text("utf-8"))
    session = _open(request)
    outputs = [
        output.name
        for output in session.get_outputs()
        if output.type.startswith("tensor(") and output.type != "tensor(string)"
    ]
    for number in range(request["runs"]):
        with np.load(folder / f"{number}-in.npz", allow_pickle=False) as arrays:
            feed = dict(zip(request["inputs"], arrays.values(), strict=True))
        found = session.run(outputs, feed) if outputs else []
        np.savez(folder / f"{number}-out.npz", *found)
    _write(folder / "answer.json", {"outputs": outputs})


def processor() -> dict[str, Any]:
    """Return what is found inside: the architecture and the instruction sets."""
    numpy_core = importlib.import_module("numpy._core._multiarray_umath")
    features: Mapping[str, bool] = numpy_core.__cpu_features__
    return {
        "machine": platform.machine(),
        "features": sorted(name for name, there in features.items() if there),
        "runtime": ort.__version__,
    }


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it was told
        sys.exit("the process that asked is gone")


def _open(request: Mapping[str, Any]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    for name, value in request["options"].items():
        setattr(options, name, value)
    for key, value in request["entries"].items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(
        request["model"], options, providers=["CPUExecutionProvider"]
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
