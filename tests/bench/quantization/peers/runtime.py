"""onnxruntime's own quantization: ``... .runtime HOW MODEL CALIBRATION OUT``.

``static`` is the manual's first choice and the functions' defaults: QDQ, signed on both
sides, one scale a tensor, MinMax. ``channel`` is what it advises next, unsigned
activations and a scale for each channel. ``dynamic`` is ``quantize_dynamic`` as it is.
"""

import logging
import sys
import tempfile
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

from tests.bench.quantization.peers.prepare import Reader, feeds, prepared


def main(how: str, model: Path, calibration: Path, out: Path) -> None:
    """Quantize."""
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "prepared.onnx"
        prepared(model, ready)
        if how == "dynamic":
            quantize_dynamic(str(ready), str(out))
            return
        reader = Reader(feeds(ready, calibration))
        if how == "static":
            quantize_static(str(ready), str(out), reader)
            return
        quantize_static(
            str(ready),
            str(out),
            reader,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], *(Path(one) for one in sys.argv[2:]))
