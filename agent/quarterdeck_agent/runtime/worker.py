"""The child process that runs one model and nothing else.

It is started with two open descriptors: a socket to its agent and the verified model.
It limits itself before it looks at the model: address space, no files, no core, few
descriptors. Whatever the model or a request does ends as an answer that says so, or
as the end of this process, which the agent outlives.
"""

import argparse
import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from quarterdeck_agent.evidence import Answer, Loaded
from quarterdeck_agent.runtime.frames import HEAD, Ask, Problem, Tell, lengths, pack
from quarterdeck_agent.runtime.golden import (
    Input,
    fit,
    replay,
    top,
)
from quarterdeck_agent.runtime.tensors import Tensors, read_tensors
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session

ROOM_MB = 256
"""Address space beyond the model's memory: thread stacks and the runtime's arenas."""
MAX_FILES = 32
MAX_GOLDEN_BYTES = 1 << 30
_PR_SET_PDEATHSIG = 1
_PAGE = resource.getpagesize()
_STATM = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class _Node(Protocol):
    """What the runtime says of an input."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class Model:
    """A loaded model.

    Args:
        file: The descriptor of its file. The runtime reads it through its name in
            ``/proc``, which is the same open file: given bytes, it would hold on to
            them as long as the model is loaded.
        session: How the index says that it is opened.

    Raises:
        RejectedError: ``LOAD_FAILED``.
    """

    def __init__(self, file: int, session: Session) -> None:
        options = ort.SessionOptions()
        session.configure(options)
        try:
            self._session = ort.InferenceSession(
                f"/proc/self/fd/{file}", options, providers=["CPUExecutionProvider"]
            )
            self.inputs = tuple(_input(i) for i in self._session.get_inputs())
        except Exception as error:
            # The runtime's exceptions have no common base of their own.
            raise RejectedError(Code.LOAD_FAILED, _short(error)) from error

    def run(self, tensors: Tensors) -> list[Any]:
        """Return the model's outputs.

        Raises:
            RejectedError: ``PROBATION_FAILED`` when the runtime gives up.
        """
        try:
            return list(self._session.run(None, tensors))
        except Exception as error:
            raise RejectedError(Code.PROBATION_FAILED, _short(error)) from error


def serve(link: socket.socket, model: Model) -> None:
    """Answer requests until the agent closes the socket."""
    while (frame := _receive(link)) is not None:
        ask, body = frame
        try:
            tell = _answer(model, ask, body)
        except RejectedError as error:
            tell = _problem(error.code, error.detail)
        except MemoryError:
            tell = _problem(Code.MEMORY_EXCEEDED, f"at {_rss_mb()} MiB")
        link.sendall(pack(tell))


def _answer(model: Model, ask: Ask, body: bytes) -> Tell:
    if ask.golden is not None:
        vectors = _vectors(body)
        report = replay(vectors, ask.golden, model.inputs, model.run, _rss_mb())
        return Tell(report=report.model_copy(update={"rss_mb": _rss_mb()}))
    sample = fit(read_tensors(body), model.inputs)
    before = time.perf_counter_ns()
    outputs = model.run(sample)
    latency = time.perf_counter_ns() - before
    best, score = top(outputs[0])
    answer = Answer(top=best, score=score, latency_ns=latency, rss_mb=_rss_mb())
    return Tell(answer=answer)


def _vectors(body: bytes) -> Tensors:
    try:
        return read_tensors(body, limit=MAX_GOLDEN_BYTES)
    except RejectedError as error:
        # the artifact's fault, which is not tried again, and nobody's request
        raise RejectedError(Code.GOLDEN_FAILED, error.detail) from error


def _receive(link: socket.socket) -> tuple[Ask, bytes] | None:
    head = _exactly(link, HEAD.size)
    if head is None:
        return None
    header_length, body_length = lengths(head)
    header, body = _exactly(link, header_length), _exactly(link, body_length)
    if header is None or body is None:
        return None
    return Ask.decode(header), body


def _exactly(link: socket.socket, count: int) -> bytes | None:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        got = link.recv_into(view)
        if got == 0:
            return None
        view = view[got:]
    return bytes(buffer)


def _contain(memory_mb: int) -> None:
    """Give up what a model has no use for; where a kernel offers more, it goes here."""
    room = _pages_mb(0) + memory_mb + ROOM_MB
    for what, limit in (
        (resource.RLIMIT_AS, room << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
    ):
        resource.setrlimit(what, (limit, limit))


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its agent, even in an endless inference."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


def _input(node: _Node) -> Input:
    if node.type not in _DTYPES:
        raise ValueError(f"input {node.name} is of type {node.type}")
    shape = tuple(d if isinstance(d, int) else None for d in node.shape)
    return Input(node.name, shape, np.dtype(_DTYPES[node.type]))


def _session(text: str) -> Session:
    return Session.decode(text.encode())


def _rss_mb() -> int:
    return _pages_mb(1)


def _pages_mb(field: int) -> int:
    """Return a field of ``/proc/self/statm``: 0 is address space, 1 resident."""
    return int(os.pread(_STATM, 256, 0).split()[field]) * _PAGE >> 20


def _problem(code: Code, detail: str) -> Tell:
    return Tell(problem=Problem(code=code, detail=detail[:500]))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model, say so, and serve."""
    parser = argparse.ArgumentParser(description="Runs one model for its agent.")
    for name in ("socket", "model", "parent", "memory-mb"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--session", type=_session, required=True)
    given = parser.parse_args(arguments)
    _die_with(given.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=given.socket) as link:
        _contain(given.memory_mb)
        before = time.perf_counter()
        try:
            model = Model(given.model, given.session)
        except RejectedError as error:
            link.sendall(pack(_problem(error.code, error.detail)))
            return 1
        finally:
            os.close(given.model)
        load_ms = (time.perf_counter() - before) * 1e3
        link.sendall(pack(Tell(loaded=Loaded(load_ms=load_ms, rss_mb=_rss_mb()))))
        serve(link, model)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
