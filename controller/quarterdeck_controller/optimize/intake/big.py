"""Keep large weights in a file beside the model while the graph is worked on.

A graph without its weights is small: it can be copied, converted and checked for next
to nothing, and the runtime maps the weights from the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from quarterdeck_controller.optimize.intake.external import (
    CHUNK,
    check_external,
    is_external,
    place_of,
)
from quarterdeck_controller.optimize.intake.graph import graphs, size_of, tensors
from quarterdeck_controller.optimize.intake.tidy import hoist

APART_BYTES = 512 << 20
"""From here on weights are kept apart while the graph is worked on."""
ONE_FILE_BYTES = 1 << 30
"""Up to here a prepared model is one file."""
LEAST = 1024
"""Smaller constants stay in the graph: shapes are inferred from them."""
ALIGNMENT = 4096
"""So that the runtime can map what begins there."""


def load(path: Path, model: ModelProto, apart: Path, limit: int = APART_BYTES) -> bool:
    """Bring in the weights that ``model``, read from ``path``, has in other files.

    Args:
        path: The model's file.
        model: What was read; it is changed.
        apart: Where weights are put when there are more bytes than ``limit``.
        limit: How many bytes may be held in memory.

    Returns:
        Whether the weights are in ``apart``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when a data file is missing or unsound.
    """
    check_external(model, path.parent)
    if sum(map(size_of, tensors(model))) <= limit:
        onnx.load_external_data_for_model(model, str(path.parent))
        return False
    hoist(model)
    put_apart(model, apart, path.parent)
    return True


def put_apart(model: ModelProto, apart: Path, folder: Path) -> None:
    """Move the weights of ``model`` to the file ``apart``.

    Args:
        model: Its large constants are initializers.
        apart: A new file, in the folder that the model will be in.
        folder: Where the data files are that the model names now.
    """
    with apart.open("wb") as out:
        for tensor in _large(model.graph):
            out.seek(-out.tell() % ALIGNMENT, 1)
            start, length = out.tell(), size_of(tensor)
            _copy(tensor, folder, out)
            _refer(tensor, apart.name, start, length)


def write(
    model: ModelProto, out: Path, *, is_apart: bool, limit: int = ONE_FILE_BYTES
) -> None:
    """Write the model: one file, or ``<out>.data`` beside it from ``limit`` bytes on.

    Args:
        model: What to write; it is changed.
        out: The file.
        is_apart: Whether the weights are in ``<out>.data`` already.
        limit: How many bytes of weights are too many for one file.
    """
    apart = out.with_suffix(".data")
    large = sum(map(size_of, tensors(model))) >= limit
    if large and not is_apart:
        put_apart(model, apart, out.parent)
    if is_apart and not large:
        onnx.load_external_data_for_model(model, str(out.parent))
        apart.unlink()
    onnx.save(model, out)


def _large(graph: GraphProto) -> Iterator[TensorProto]:
    for inner in graphs(graph):
        for tensor in inner.initializer:
            is_text = tensor.data_type == TensorProto.STRING
            if is_external(tensor) or (size_of(tensor) >= LEAST and not is_text):
                yield tensor


def _copy(tensor: TensorProto, folder: Path, out: BinaryIO) -> None:
    if not is_external(tensor):
        raw = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
        out.write(raw)
        return
    place = place_of(tensor)
    with (folder / place.location).open("rb") as source:
        source.seek(place.offset)
        left = place.length
        while left:
            part = source.read(min(CHUNK, left))
            out.write(part)
            left -= len(part)


def _refer(tensor: TensorProto, location: str, start: int, length: int) -> None:
    bare = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=list(tensor.dims)
    )
    bare.data_location = TensorProto.EXTERNAL
    told = {"location": location, "offset": str(start), "length": str(length)}
    for key, value in told.items():
        bare.external_data.add(key=key, value=value)
    tensor.CopyFrom(bare)
