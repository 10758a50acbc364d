"""Open a model in onnxruntime as a device would, and run it. Runs in a child.

What the runtime raises has no common base; it is translated here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from quarterdeck_controller.optimize.data.stored import Array
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session

Feed = dict[str, Array]

PROVIDERS = ["CPUExecutionProvider"]
DEFAULT = Session()
MAX_TOLD = 400


def open_session(
    model: Path | bytes, session: Session = DEFAULT, *, quick: bool = False
) -> ort.InferenceSession:
    """Return a session as a device would open it.

    Args:
        model: A file, with its external data beside it, or the bytes of one.
        session: The options a device is told.
        quick: Skip the runtime's costly optimizations.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open it.
    """
    options = options_of(session)
    if quick:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return open_with(model, options)


def options_of(session: Session) -> ort.SessionOptions:
    """Return the runtime's own form of ``session``, to be changed further."""
    options = ort.SessionOptions()
    session.configure(options)
    return options


def open_with(model: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """Return a session with options of one's own.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open it.
    """
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=PROVIDERS)
    except Exception as error:
        told = f"onnxruntime cannot open the model: {_short(error)}"
        raise RejectedError(Code.MODEL_INVALID, told) from error


def infer(
    session: ort.InferenceSession, names: Sequence[str] | None, feed: Mapping[str, Any]
) -> list[Any]:
    """Return the outputs called ``names``, or all of them, for one feed.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime gives up.
    """
    try:
        return list(session.run(names, feed))
    except Exception as error:
        told = f"onnxruntime cannot run the model: {_short(error)}"
        raise RejectedError(Code.MODEL_INVALID, told) from error


def tensor_outputs(session: ort.InferenceSession) -> tuple[str, ...]:
    """Return the outputs that are tensors of numbers, in the model's order.

    Sequences, maps, optional values and strings cannot be judged and are left out.
    """
    return tuple(
        output.name
        for output in session.get_outputs()
        if output.type.startswith("tensor(") and output.type != "tensor(string)"
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_TOLD]
