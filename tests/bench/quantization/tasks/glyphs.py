"""A small MobileNetV2 that tells glyphs apart in faces that it never saw."""

from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tests.bench.quantization.task import LABELS, Array, Made, Recipe
from tests.bench.quantization.tasks.fonts import faces, font
from tests.bench.quantization.venvs import trained

GLYPHS = "ABDEFGHJKLMNPQRTUVWXYZabdefghijkmnpqrtuy123456789?!&@#%$"
SIZE = 32
TRAINED = ("lato", "manrope", "source-serif-pro")
JUDGED = ("caladea", "hanken-grotesk", "source-sans-pro")
TRAINING, CALIBRATION, EVALUATION = 6000, 128, 3000
SPREAD = 8.0
"""Channels are scaled by 1/8 to 8: they then differ by a factor of up to 64."""


def make(spread: float) -> Made:
    """Return the net with glyphs; the label is the glyph."""
    x, labels = _pictures(10, TRAINING, TRAINED)
    arrays: dict[str, Array] = {"x": x, "labels": labels, "spread": np.array(spread)}
    seen, _ = _pictures(11, CALIBRATION, TRAINED)
    judged, truth = _pictures(12, EVALUATION, JUDGED)
    return Made(trained("glyphs", arrays), {"x": seen}, {"x": judged, LABELS: truth})


def _pictures(
    seed: int, count: int, families: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(GLYPHS), count)
    choice = [face for family in families for face in faces(family)]
    pictures = [_picture(rng, GLYPHS[label], choice) for label in labels]
    x = np.stack(pictures).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), labels.astype(np.int64)


def _picture(
    rng: np.random.Generator, glyph: str, choice: list[bytes]
) -> NDArray[np.uint8]:
    """Return one glyph, turned, blurred and noisy, on some colour."""
    drawn = font(choice[int(rng.integers(len(choice)))], int(rng.integers(16, 27)))
    ink, paper = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    while abs(int(ink.sum()) - int(paper.sum())) < 150:
        ink, paper = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    colour, behind = tuple(ink.tolist()), tuple(paper.tolist())
    image = Image.new("RGB", (SIZE, SIZE), behind)
    left, top, right, bottom = drawn.getbbox(glyph)
    shift = rng.normal(0, 1.8, 2)
    at = (
        (SIZE - right - left) / 2 + float(shift[0]),
        (SIZE - bottom - top) / 2 + float(shift[1]),
    )
    ImageDraw.Draw(image).text(at, glyph, font=drawn, fill=colour)
    turn = float(rng.normal(0, 9))
    image = image.rotate(turn, Image.Resampling.BILINEAR, fillcolor=behind)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))
    noise = rng.normal(0, rng.uniform(4, 26), (SIZE, SIZE, 3))
    pixels = np.asarray(image, np.float64) + noise
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


ABOUT = "MobileNetV2, 56 glyphs, faces never seen, trained here"
RECIPES = (
    Recipe("mb", 1, "top1", "class", ABOUT, partial(make, 1.0)),
    Recipe(
        "mbx",
        1,
        "top1",
        "class",
        f"{ABOUT}; the same function with channels that differ up to 64 times",
        partial(make, SPREAD),
    ),
)
