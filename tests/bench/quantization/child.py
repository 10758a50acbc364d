"""Run a model in a process of its own: what it answers, or how long it takes.

    python -m tests.bench.quantization.child answers|latency|load REQUEST ANSWER

A variant can crash the runtime or swell without end, and a peer's often does.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort

from tests.bench.quantization.feed import read, sample
from tests.bench.quantization.judge import JUDGES, Outputs
from tests.bench.quantization.task import Array

MEMORY_BYTES = 12 << 30
Request = Mapping[str, Any]


def answers(request: Request) -> dict[str, object]:
    """Return what ``model`` says about every sample of ``data``, as text."""
    session = _session(request["model"], request["session"])
    data = read(Path(request["data"]))
    count = len(next(iter(data.values())))

    def outputs() -> Iterator[list[Array]]:
        for row in range(count):
            yield session.run(None, sample(data, session.get_inputs(), row))

    seen: Outputs = outputs()
    return {"answers": JUDGES[request["judge"]].answers(seen)}


def latency(request: Request) -> dict[str, object]:
    """Return the time of ``model`` beside ``reference``, run in turns, milliseconds.

    The fastest quartile of both: what slows the machine down in between is cut off.
    """
    data = read(Path(request["data"]))
    sessions = [
        _session(request["model"], request["session"]),
        _session(request["reference"], {}),
    ]
    feeds = [sample(data, one.get_inputs(), 0) for one in sessions]
    spans: list[list[float]] = [[], []]
    began = time.perf_counter()
    while len(spans[0]) < request["rounds"]:
        for session, feed, found in zip(sessions, feeds, spans, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            found.append(time.perf_counter() - start)
        late = time.perf_counter() - began > request["seconds"]
        if late and len(spans[0]) >= request["least"]:
            break
    mine, other = (float(np.quantile(found[2:], 0.25)) * 1e3 for found in spans)
    return {"ms": mine, "reference_ms": other, "ratio": mine / other}


def load(request: Request) -> dict[str, object]:
    """Return nothing, once the model is loaded and has run one sample."""
    session = _session(request["model"], request["session"])
    data = read(Path(request["data"]))
    session.run(None, sample(data, session.get_inputs(), 0))
    return {}


def _session(model: str, wanted: Mapping[str, Any]) -> ort.InferenceSession:
    """Open a model as a device would, by the ``session`` of an evaluation record."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(wanted.get("threads", 1))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = bool(wanted.get("arena", True))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not wanted.get("prepack", True):
        options.add_session_config_entry("session.disable_prepacking", "1")
    if wanted.get("precise", False):
        options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


STEPS: MappingProxyType[str, Callable[[Request], dict[str, object]]] = MappingProxyType(
    {"answers": answers, "latency": latency, "load": load}
)


def main(step: str, request: Path, answer: Path) -> None:
    """Do one step within the memory limit."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    found = STEPS[step](json.loads(request.read_text("utf-8")))
    answer.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
