"""What agent and worker write into the socket between them: bounded frames.

A frame is ``u32 header length | u32 body length | header (JSON) | body``. The worker is
not trusted more than the model it runs: what it sends is bounded like any input.
"""

import struct
from typing import Literal

from pydantic import Field

from quarterdeck_agent.evidence import Answer, GoldenReport, Loaded
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden
from quarterdeck_shared.wire import Wire

HEAD = struct.Struct("!II")
MAX_HEADER_BYTES = 4096
MAX_BODY_BYTES = 256 << 20


class Ask(Wire):
    """A request to the worker; the body holds the tensors."""

    do: Literal["infer", "golden"]
    golden: Golden | None = None


class Problem(Wire):
    """Why the worker did not do what it was asked."""

    code: Code
    detail: str = Field(max_length=1000)


class Tell(Wire):
    """What the worker answers: exactly one field is set."""

    loaded: Loaded | None = None
    answer: Answer | None = None
    report: GoldenReport | None = None
    problem: Problem | None = None


def pack(header: Wire, body: bytes = b"") -> bytes:
    """Return the frame of ``header`` and ``body``."""
    data = header.encode()
    return HEAD.pack(len(data), len(body)) + data + body


def lengths(head: bytes) -> tuple[int, int]:
    """Return the lengths of header and body that ``head`` announces.

    Raises:
        RejectedError: ``TOO_LARGE``.
    """
    header, body = HEAD.unpack(head)
    if header > MAX_HEADER_BYTES or body > MAX_BODY_BYTES:
        raise RejectedError(Code.TOO_LARGE, f"a frame of {header} + {body} bytes")
    return header, body
