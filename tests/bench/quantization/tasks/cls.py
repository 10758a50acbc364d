"""PP-OCR's text angle classifier on rendered lines, half of them upside down."""

import numpy as np
from numpy.typing import NDArray

from tests.bench.quantization.fetch import member
from tests.bench.quantization.task import LABELS, Array, Made, Recipe
from tests.bench.quantization.tasks.lines import draw_line, normalized

WIDTH = 192
LINE_WIDTH, HARD = 320, 0.7
"""The classifier sees the first part of a line."""
CALIBRATION, EVALUATION = 128, 600


def make() -> Made:
    """Return the classifier with lines; label 1 is upside down."""
    model = member(
        "rapidocr", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    )
    seen, _ = _lines(3, CALIBRATION)
    x, labels = _lines(4, EVALUATION)
    return Made(model, {"x": seen}, {"x": x, LABELS: labels})


def _lines(seed: int, count: int) -> tuple[Array, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = []
    for turned in labels:
        line = draw_line(rng, LINE_WIDTH, hard=HARD).pixels[:, :WIDTH]
        pixels.append(line[::-1, ::-1] if turned else line)
    return normalized(np.stack(pixels)), labels.astype(np.int64)


RECIPE = Recipe(
    "cls",
    1,
    "top1",
    "class",
    "PP-OCR angle classifier, MobileNetV3 (rapidocr-onnxruntime, Apache-2.0); rendered "
    "lines: opset 11, weights in Constant nodes, hard-swish, squeeze-excite",
    make,
)
