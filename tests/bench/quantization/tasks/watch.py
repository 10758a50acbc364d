"""Nets of five kinds on the smartwatch exercises, judged on people they never saw."""

from collections.abc import Callable
from functools import partial

import numpy as np

from quarterdeck_controller.demo.dataset import (
    FIELD,
    HELD_OUT,
    TRAIN,
    Windows,
    load,
)
from quarterdeck_controller.demo.material import float_model
from tests.bench.quantization.fetch import CACHE
from tests.bench.quantization.task import GROUPS, LABELS, Array, Made, Recipe
from tests.bench.quantization.venvs import trained

CALIBRATION = 128
DEMO = 2
"""The demo's better model."""


def demo() -> Made:
    """Return the demo's own net: plain convolutions and squeeze-excite."""
    return _with_data(float_model(DEMO).read_bytes(), load(CACHE.parent))


def net(kind: str) -> Made:
    """Return a net of that kind, trained now."""
    windows = load(CACHE.parent)
    seen = windows.of(TRAIN)
    arrays: dict[str, Array] = {
        "x": seen.x,
        "labels": seen.labels,
        "kind": np.array(kind),
    }
    return _with_data(trained("watch", arrays), windows)


def _with_data(model: bytes, windows: Windows) -> Made:
    """Calibrate with people of the training and judge by others, group by recording."""
    seen, judged = windows.of(TRAIN), windows.of(HELD_OUT + FIELD)
    rows = np.linspace(0, len(seen) - 1, CALIBRATION).astype(np.int64)
    recording = judged.subject * 100 + judged.labels * 2 + judged.right
    return Made(
        model,
        {"motion": seen.x[rows]},
        {"motion": judged.x, LABELS: judged.labels, GROUPS: recording},
    )


def _recipe(kind: str, about: str, make: Callable[[], Made]) -> Recipe:
    notes = f"{about}; seglearn's smartwatch exercises, four people never seen"
    return Recipe(f"watch-{kind}", 1, "top1", "class", notes, make)


RECIPES = (
    _recipe("conv", "the demo's net, convolutions and squeeze-excite", demo),
    _recipe("mobile", "depthwise, squeeze-excite, swish, 80 k", partial(net, "mobile")),
    _recipe("lstm", "LSTM in both directions", partial(net, "lstm")),
    _recipe("gru", "GRU in both directions", partial(net, "gru")),
    _recipe("vit", "transformer over patches", partial(net, "vit")),
)
