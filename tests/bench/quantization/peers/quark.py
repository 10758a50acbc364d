"""AMD Quark: ``... .quark HOW MODEL CALIBRATION OUT``.

Unsigned activations and a scale for each channel of the weights. Run by the
interpreter of an environment that has it.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path

from tests.bench.quantization.peers.prepare import Reader, feeds, prepared


def main(model: Path, calibration: Path, out: Path) -> None:
    """Quantize."""
    quark = importlib.import_module("quark.onnx")
    spec = importlib.import_module("quark.onnx.quantization.config.spec")
    weights = spec.Int8Spec(quant_granularity=spec.QuantGranularity.Channel)
    layer = spec.QLayerConfig(input_tensors=spec.UInt8Spec(), weight=weights)
    config = quark.QConfig(global_config=layer)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "prepared.onnx"
        prepared(model, ready)
        reader = Reader(feeds(ready, calibration))
        out = out.absolute()
        os.chdir(folder)  # it leaves a table of what it did where it stands
        quark.ModelQuantizer(config).quantize_model(str(ready), str(out), reader)


if __name__ == "__main__":
    main(*(Path(one) for one in sys.argv[2:]))
