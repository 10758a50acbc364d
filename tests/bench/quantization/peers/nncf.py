"""NNCF: ``... .nncf HOW MODEL CALIBRATION OUT``.

``HOW`` is ``transformer`` where the model is one, which NNCF asks to be told.
Run by the interpreter of an environment that has it.
"""

import importlib
import sys
import tempfile
from pathlib import Path

import onnx

from tests.bench.quantization.peers.prepare import feeds, prepared


def main(how: str, model: Path, calibration: Path, out: Path) -> None:
    """Quantize."""
    nncf = importlib.import_module("nncf")
    kind = nncf.ModelType.TRANSFORMER if how == "transformer" else None
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "prepared.onnx"
        prepared(model, ready)
        samples = [dict(one) for one in feeds(ready, calibration)]
        found = nncf.quantize(
            onnx.load(ready),
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=kind,
        )
        onnx.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1], *(Path(one) for one in sys.argv[2:]))
