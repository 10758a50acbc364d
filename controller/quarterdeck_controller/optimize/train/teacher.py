"""What the float graph says of every sample, computed once by the runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from quarterdeck_controller.optimize.data.stored import Feed, Stored
from quarterdeck_controller.optimize.session import infer, open_with, options_of
from quarterdeck_shared.session import Session

Array = NDArray[Any]

MAX_KEPT_BYTES = 512 << 20
FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(slots=True)
class Teacher:
    """Gives the wanted tensors of samples; keeps them as long as they fit."""

    session: ort.InferenceSession
    names: tuple[str, ...]
    samples: Stored
    kept: dict[int, list[Array]]
    kept_bytes: int = 0

    def answers(self, rows: Sequence[int]) -> list[Array]:
        """Return each tensor for the rows together, samples first."""
        if len(rows) > 1:
            missing = [row for row in rows if row not in self.kept]
            self._keep(missing)
        if all(row in self.kept for row in rows):
            columns = zip(*(self.kept[row] for row in rows), strict=True)
            return [np.concatenate(column) for column in columns]
        return self._ask(rows)

    def _ask(self, rows: Sequence[int]) -> list[Array]:
        found = infer(self.session, self.names, feed_of(self.samples, rows))
        if len(rows) == 1:
            self._store(rows[0], found)
        return found

    def _keep(self, rows: Sequence[int]) -> None:
        if not rows or self.kept_bytes >= MAX_KEPT_BYTES:
            return
        found = infer(self.session, self.names, feed_of(self.samples, rows))
        for at, row in enumerate(rows):
            self._store(row, [array[at : at + 1] for array in found])

    def _store(self, row: int, arrays: list[Array]) -> None:
        size = sum(array.nbytes for array in arrays)
        if row not in self.kept and self.kept_bytes + size <= MAX_KEPT_BYTES:
            self.kept[row] = [np.array(array) for array in arrays]
            self.kept_bytes += size


def open_teacher(reference: Path, names: Sequence[str], samples: Stored) -> Teacher:
    """Return the float graph, giving the tensors called ``names``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open it.
    """
    model = onnx.load(reference, load_external_data=False)
    options = options_of(Session())
    options.add_session_config_entry(FOLDER, str(reference.resolve().parent))
    data = giving(model, names).SerializeToString()
    return Teacher(open_with(data, options), tuple(names), samples, {})


def giving(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return the model with other outputs; the runtime finds their types."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    known = {value.name: value for value in (*model.graph.output, *model.graph.input)}
    del changed.graph.output[:]
    for name in names:
        changed.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
    return changed


def feed_of(samples: Stored, rows: Sequence[int]) -> Feed:
    """Return the rows as one feed; more than one only where samples are uniform."""
    (feed,) = samples.batches(len(rows), rows)
    return feed
