"""What the demo works on: data for the optimizer, sensor files for the devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from quarterdeck_controller.demo.dataset import (
    FIELD,
    HELD_OUT,
    LABELS,
    TRAIN,
    Windows,
    load,
)

MODEL = "exercises"
CALIBRATION_STEP = 8
RAW_UNITS = 1000.0
"""A sensor log in thousandths of g and of rad/s, taken for one in g and rad/s."""


@dataclass(frozen=True, slots=True)
class Material:
    """Files made for one run of the demo."""

    folder: Path

    @property
    def calibration(self) -> Path:
        """Windows of the people the models were trained on."""
        return self.folder / "calibration.npz"

    @property
    def raw_calibration(self) -> Path:
        """The same in the wrong unit."""
        return self.folder / "calibration-raw-units.npz"

    @property
    def evaluation(self) -> Path:
        """Windows of people whom no model has seen, both arms."""
        return self.folder / "evaluation.npz"

    @property
    def right_arms(self) -> Path:
        """The same people, right arms only."""
        return self.folder / "evaluation-right-arms.npz"

    @property
    def labels(self) -> Path:
        """Names of the exercises, one a line."""
        return self.folder / "labels.txt"

    def samples(self, device: str) -> Path:
        """Return the folder of sensor files of ``device``."""
        return self.folder / "field" / device


def float_model(version: int) -> Path:
    """Return the float model of that version, as it was trained."""
    name = f"models/exercises-{version}.onnx"
    return Path(str(resources.files("quarterdeck_controller.demo") / name))


def prepare(cache: Path, folder: Path, devices: Sequence[str]) -> Material:
    """Write all data files and return where they are.

    Each device gets its own share of the recordings of two people who are in no
    other set, as one ``.npy`` file a window, with the true exercise in ``labels.csv``.

    Raises:
        QuarterdeckError: The data set could not be had.
    """
    windows = load(cache)
    material = Material(folder)
    folder.mkdir(parents=True, exist_ok=True)
    training, held_out = windows.of(TRAIN), windows.of(HELD_OUT)
    calibration = training.where(np.arange(0, len(training), CALIBRATION_STEP))
    _write(material.calibration, calibration)
    np.savez(material.raw_calibration, motion=calibration.x * np.float32(RAW_UNITS))
    _write(material.evaluation, held_out)
    _write(material.right_arms, held_out.where(held_out.right))
    material.labels.write_text("\n".join(LABELS) + "\n", "utf-8")
    _share_out(windows.of(FIELD), material, devices)
    return material


def _write(path: Path, windows: Windows) -> None:
    np.savez(path, motion=windows.x, labels=windows.labels)


def _share_out(field: Windows, material: Material, devices: Sequence[str]) -> None:
    order = np.random.default_rng(1).permutation(len(field))
    for device, mine in zip(devices, np.array_split(order, len(devices)), strict=True):
        folder = material.samples(device)
        folder.mkdir(parents=True)
        lines = ["file,label"]
        for number, window in enumerate(mine):
            name = f"window-{number:04}.npy"
            np.save(folder / name, field.x[window : window + 1])
            lines.append(f"{name},{field.labels[window]}")
        (folder / "labels.csv").write_text("\n".join(lines) + "\n", "utf-8")
