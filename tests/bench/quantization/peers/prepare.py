"""What every peer is given: the model as the runtime's own manual has it prepared."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.shape_inference import quant_pre_process

from tests.bench.quantization.feed import read, sample
from tests.bench.quantization.task import Array

LOG = logging.getLogger(__name__)
OPSET = 17
"""Scales per channel need 13; a model of less would fail for that alone."""


def prepared(model: Path, out: Path) -> None:
    """Write ``model`` in a new opset where it converts, then pre-processed."""
    loaded = onnx.load(model)
    with tempfile.TemporaryDirectory() as folder:
        newer = Path(folder) / "newer.onnx"
        onnx.save(_newer(loaded), newer)
        try:
            quant_pre_process(str(newer), str(out), auto_merge=True)
        except Exception:  # what it raises when shapes stay unknown; then without
            LOG.exception("no symbolic shapes for %s", model)
            quant_pre_process(str(newer), str(out), skip_symbolic_shape=True)


def feeds(model: Path, calibration: Path) -> list[Mapping[str, Array]]:
    """Return the calibration samples, each as a batch of one."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    inputs = ort.InferenceSession(str(model), options).get_inputs()
    data = read(calibration)
    count = len(next(iter(data.values())))
    return [sample(data, inputs, row) for row in range(count)]


class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """Gives the samples one at a time."""

    def __init__(self, samples: list[Mapping[str, Array]]) -> None:
        self._samples = samples
        self._rest: Iterator[Mapping[str, Array]] = iter(samples)

    def get_next(self) -> Mapping[str, Array] | None:
        """Return the next sample; None at the end."""
        return next(self._rest, None)

    def rewind(self) -> None:
        """Start again."""
        self._rest = iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)


def _newer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in the new opset, or as it is when it does not convert."""
    versions = [
        one.version for one in model.opset_import if one.domain in ("", "ai.onnx")
    ]
    if not versions or versions[0] >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError):
        return model
