"""Lines of text as a camera might see them: rendered, tilted, blurred, noisy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tests.bench.quantization.tasks.fonts import FAMILIES, faces, font

Pixels = NDArray[np.uint8]
Rng = np.random.Generator

HEIGHT, MARGIN = 48, 2
LETTERS = "ABCDEFGHKLMNPRSTUVWXYZ23456789"
"""Those of serial numbers: without what looks alike in most faces."""
SYLLABLES = (
    "al an ar be co da de di el en er fo ga ha in is ka la le li lo ma me mi na ne no "
    "on or pa pe ra re ri ro sa se si so ta te ti to tra tri un ur va ve vi wa za"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line and what it says."""

    pixels: Pixels
    text: str


def draw_line(rng: Rng, width: int, *, hard: float = 1.0) -> Line:
    """Return a random line of at most ``width`` pixels, [48, width, 3] BGR.

    Args:
        rng: Where everything random comes from.
        width: Of the picture; what the line does not fill is grey.
        hard: How much blur, noise and tilt there is.
    """
    text = _text(rng)
    family = sorted(FAMILIES)[int(rng.integers(len(FAMILIES)))]
    choice = faces(family)
    face = choice[int(rng.integers(len(choice)))]
    size = int(rng.integers(22, 35))
    while True:
        drawn = font(face, size)
        left, top, right, bottom = drawn.getbbox(text)
        if right - left <= width - 2 * MARGIN or size <= 14:
            break
        size -= 1
    while right - left > width - 2 * MARGIN:
        text = text[:-1].rstrip()
        left, top, right, bottom = drawn.getbbox(text)
    ink, paper = _colours(rng)
    filled = min(width, int(right - left) + 2 * MARGIN)
    image = Image.new("RGB", (filled, HEIGHT), paper)
    at = (MARGIN - left, (HEIGHT - (bottom - top)) / 2 - top + rng.normal(0, 1))
    ImageDraw.Draw(image).text(at, text, font=drawn, fill=ink)
    tilt = float(rng.normal(0, 0.8 * hard))
    image = image.rotate(tilt, Image.Resampling.BILINEAR, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.3 * hard))))
    pixels = np.asarray(image, np.float64)[:, :, ::-1]
    pixels = pixels + rng.normal(0, rng.uniform(2, 18 * hard), pixels.shape)
    whole = np.full((HEIGHT, width, 3), 127.5)
    whole[:, :filled] = pixels
    return Line(np.clip(np.round(whole), 0, 255).astype(np.uint8), text)


def normalized(pixels: Pixels) -> NDArray[np.float32]:
    """Return [N, H, W, 3] as the OCR models take it: [N, 3, H, W] from -1 to 1."""
    scaled = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _text(rng: Rng) -> str:
    words = [_word(rng) for _ in range(int(rng.integers(1, 4)))]
    return " ".join(words)[:24].strip()


def _word(rng: Rng) -> str:
    kind = rng.random()
    if kind < 0.55:
        parts = rng.choice(SYLLABLES.split(), int(rng.integers(2, 5)))
        word = "".join(parts)
        return word.capitalize() if rng.random() < 0.5 else word
    if kind < 0.75:
        return f"{rng.integers(0, 10000) / 100:.2f}"
    if kind < 0.9:
        letters = rng.choice(list(LETTERS), 6)
        return "".join(letters)
    return (
        f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/20{rng.integers(10, 30)}"
    )


def _colours(rng: Rng) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    pair = (dark, light) if rng.random() < 0.75 else (light, dark)
    ink, paper = (tuple(int(value) for value in colour) for colour in pair)
    return (ink[0], ink[1], ink[2]), (paper[0], paper[1], paper[2])
