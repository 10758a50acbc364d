"""PP-OCRv4's text recognizer on rendered lines."""

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.bench.quantization.fetch import member
from tests.bench.quantization.task import LABELS, Made, Recipe
from tests.bench.quantization.tasks.lines import draw_line, normalized

WIDTH = 320
CALIBRATION, EVALUATION = 96, 480
PAD = -1


def make() -> Made:
    """Return the recognizer with lines; labels are its classes, padded with -1."""
    model = member("rapidocr", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")
    classes = _classes(model)
    seen, _ = _lines(1, CALIBRATION)
    x, texts = _lines(2, EVALUATION)
    labels = np.full((len(texts), max(map(len, texts))), PAD, np.int64)
    for row, text in enumerate(texts):
        labels[row, : len(text)] = [classes[letter] for letter in text]
    return Made(model, {"x": seen}, {"x": x, LABELS: labels})


def _lines(seed: int, count: int) -> tuple[NDArray[np.float32], list[str]]:
    rng = np.random.default_rng(seed)
    lines = [draw_line(rng, WIDTH) for _ in range(count)]
    pixels = np.stack([line.pixels for line in lines])
    return normalized(pixels), [line.text for line in lines]


def _classes(model: bytes) -> dict[str, int]:
    """Return the class of each letter: 0 is CTC's blank, the last is the space."""
    held = onnx.load_model_from_string(model).metadata_props
    letters = next(one.value for one in held if one.key == "character").splitlines()
    return {letter: 1 + place for place, letter in enumerate([*letters, " "])}


RECIPE = Recipe(
    "rec",
    1,
    "exact:blank=0",
    "line",
    "PP-OCRv4 recognizer (rapidocr-onnxruntime, Apache-2.0); rendered lines: depthwise "
    "convolutions and attention, weights in Constant nodes, free width, 6625 classes",
    make,
)
