"""A metric of one's own, as ``--metric metric.py:face`` takes it."""

from collections.abc import Mapping

import numpy as np

from tests.bench.quantization.judge import FACE_ABOVE
from tests.bench.quantization.task import Array


def face(outputs: Mapping[str, Array], labels: Array) -> Array:
    """Return 1 where a face is seen in a face's picture, or none in another's."""
    scores = [one for one in outputs.values() if one.shape[-1] == 1]
    best = np.stack([one.reshape(len(one), -1).max(axis=1) for one in scores])
    return np.asarray((best.max(axis=0) > FACE_ABOVE) == (labels == 1), np.float64)
